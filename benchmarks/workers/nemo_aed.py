"""NeMo's side of the encoder-decoder benchmark; runs in NeMo's environment."""

from __future__ import annotations

import time
from typing import Any

import torch
from nemo.collections.asr.modules.transformer.transformer import TransformerDecoderNM
from nemo.collections.asr.modules.transformer.transformer_generators import GreedySequenceGenerator
from nemo.collections.asr.parts.submodules.token_classifier import TokenClassifier
from nemo.core.classes.common import typecheck
from protocol import serve

_decoder: Any = None
_head: Any = None
_states: Any = None
_shape: dict[str, int] = {}


def build(weights: str, shape: dict[str, int], threads: int) -> None:
    """The decoder and head of `shape`, with the tensors and encoder states of the file `weights`."""
    global _decoder, _head, _states, _shape
    torch.set_num_threads(threads)
    stored = torch.load(weights, weights_only=True)
    _shape, _states = shape, stored["states"]
    _decoder = TransformerDecoderNM(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        num_layers=shape["layers"],
        inner_size=shape["inner"],
        num_attention_heads=shape["heads"],
        max_sequence_length=shape["longest"],
        num_token_types=0,
        pre_ln=True,
    )
    _head = TokenClassifier(shape["width"], shape["vocabulary"])
    _decoder.load_state_dict(stored["decoder"])
    _head.load_state_dict(stored["head"])
    _decoder.eval()
    _head.eval()


@torch.inference_mode()
def decode(batch: int, prompt: list[int], tokens: int) -> dict[str, Any]:
    """Greedy answers of exactly `tokens` tokens (the end token is forbidden by the bias), and seconds."""
    search = GreedySequenceGenerator(
        _decoder.embedding, _decoder.decoder, _head, pad=0, bos=1, eos=2, max_delta_length=-1,
        max_sequence_length=len(prompt) + tokens,
    )  # fmt: skip
    states = _states[:batch]
    prompts = torch.tensor([prompt] * batch)
    mask = torch.ones(states.shape[:2])
    with typecheck.disable_checks():
        start = time.perf_counter()
        answers = search(prompts, states, mask)[0]
        elapsed = time.perf_counter() - start
    return {"seconds": elapsed, "tokens": answers[:, len(prompt) :].tolist()}


if __name__ == "__main__":
    serve({"build": build, "decode": decode})
