"""stories260K, a real language model of 260 thousand parameters: its llama2.c file as a backbone, for tests."""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.llm.backbone import Backbone, BackboneConfig

FILES = "tiny_llm"
needs_stories = pytest.mark.skipif(
    not os.environ.get("ARONNAX_DATA"), reason="ARONNAX_DATA names no folder with tiny_llm/stories260K.bin"
)


def _path(name: str) -> Path:
    return Path(os.environ["ARONNAX_DATA"]) / FILES / name


def _halves(weight: np.ndarray, width: int) -> np.ndarray:
    """Rows of [H * K, D] whose rotary pairs are neighbours, so that they are the two halves of a head."""
    heads = weight.reshape(-1, width // 2, 2, weight.shape[1])
    return heads.transpose(0, 2, 1, 3).reshape(weight.shape)


def stories() -> Backbone:
    """The model."""
    raw = _path("stories260K.bin").read_bytes()
    dim, hidden, layers, heads, shared, vocabulary, longest = struct.unpack("7i", raw[:28])
    numbers, place = np.frombuffer(raw, np.float32, offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        place += (count := int(np.prod(shape)))
        return numbers[place - count : place].reshape(shape)

    width = dim // heads
    embedding, norm = take(abs(vocabulary), dim), take(layers, dim)
    query, key = take(layers, dim, dim), take(layers, shared * width, dim)
    value, out = take(layers, shared * width, dim), take(layers, dim, dim)
    feed_norm, gate = take(layers, dim), take(layers, hidden, dim)
    down, up, last = take(layers, dim, hidden), take(layers, hidden, dim), take(dim)
    weights = {"model.embed_tokens.weight": embedding, "model.norm.weight": last, "lm_head.weight": embedding}
    for n in range(layers):
        weights |= {
            f"model.layers.{n}.{name}.weight": weight
            for name, weight in {
                "input_layernorm": norm[n],
                "self_attn.q_proj": _halves(query[n], width),
                "self_attn.k_proj": _halves(key[n], width),
                "self_attn.v_proj": value[n],
                "self_attn.o_proj": out[n],
                "post_attention_layernorm": feed_norm[n],
                "mlp.gate_proj": gate[n],
                "mlp.up_proj": up[n],
                "mlp.down_proj": down[n],
            }.items()
        }
    settings = {
        "vocab_size": abs(vocabulary),
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "max_position_embeddings": longest,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    backbone = Backbone(BackboneConfig("llama", settings)).eval()
    state = {name: torch.from_numpy(weight.copy()) for name, weight in weights.items()}
    backbone.causal.load_state_dict(state, strict=True)
    return backbone


class Pieces:
    """Its tokenizer: pieces with scores, joined best first."""

    bos, eos = 1, 2

    def __init__(self) -> None:
        raw, place = _path("tok512.bin").read_bytes(), 4
        self.pieces: list[bytes] = []
        self.scores: list[float] = []
        while place < len(raw):
            score, length = struct.unpack_from("fi", raw, place)
            place += 8 + length
            self.pieces.append(raw[place - length : place])
            self.scores.append(score)
        self.ids = {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, the beginning's first."""
        ids = [self.ids[letter.encode()] for letter in " " + text]
        while True:
            pairs = [self.ids.get(self.pieces[a] + self.pieces[b]) for a, b in pairwise(ids)]
            found = [(self.scores[pair], -at) for at, pair in enumerate(pairs) if pair is not None]
            if not found:
                return [self.bos, *ids]
            at = -max(found)[1]
            ids[at : at + 2] = [pairs[at]]

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        whole = b"".join(
            bytes([int(piece[3:5], 16)]) if piece.startswith(b"<0x") else piece
            for piece in (self.pieces[number] for number in ids if number > 2)
        )
        return whole.decode("utf-8", "replace").strip()
