"""transformers' Canary folders (`model_type: canary`): config.json, safetensors and tokenizer.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.transformers_layout import (
    encoder_of,
    front_end_of,
    read_json,
    rename,
    tensors_of,
)
from aronnax.collections.asr.transformers_tokenizer import tokenizer_assets
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError
from aronnax.core.parts import Parts

_POSITIONS = "transf_decoder._embedding.position_embedding.pos_enc"
_RENAMES = (
    (r"^model\.decoder\.embed_tokens\.", "transf_decoder._embedding.token_embedding."),
    (r"^model\.decoder\.embedding_layernorm\.", "transf_decoder._embedding.layer_norm."),
    (r"^model\.decoder\.norm\.", "transf_decoder._decoder.final_layer_norm."),
    (r"^model\.decoder\.layers\.", "transf_decoder._decoder.layers."),
    (r"\.self_attn\.", ".first_sub_layer."),
    (r"\.encoder_attn\.", ".second_sub_layer."),
    (r"_layer\.q_proj\.", "_layer.query_net."),
    (r"_layer\.k_proj\.", "_layer.key_net."),
    (r"_layer\.v_proj\.", "_layer.value_net."),
    (r"_layer\.o_proj\.", "_layer.out_projection."),
    (r"\.mlp\.fc1\.", ".third_sub_layer.dense_in."),
    (r"\.mlp\.fc2\.", ".third_sub_layer.dense_out."),
    (r"\.input_layernorm\.", ".layer_norm_1."),
    (r"\.post_attention_layernorm\.", ".layer_norm_2."),
    (r"\.final_layernorm\.", ".layer_norm_3."),
    (r"^proj_out\.", "log_softmax.mlp.layer0."),
)


def read(folder: Path) -> Parts:
    """Open a folder that transformers wrote.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: the model has an option that is not supported.
    """
    config = read_json(folder / "config.json")
    decoder = _decoder(config)
    size = config.get("vocab_size", 16384)
    if not isinstance(size, int) or size < 8 or size % 8:
        raise ConfigError(f"{folder}: vocab_size {size!r} must be a multiple of 8, as Canary's are")
    values = {
        "vocab_size": size,
        "preprocessor": front_end_of(folder, config),
        "encoder": encoder_of(config),
        "decoder": decoder,
        "prompt_format": "canary2",
        # transformers has no limit by the audio's length.
        "decoding": {"max_generation_delta": -1},
    }
    tensors = {_ours(name): tensor for name, tensor in tensors_of(folder).items()}
    # Theirs are not stored, and have all sines before all cosines.
    tensors[_POSITIONS] = _positions(decoder.max_sequence_length, decoder.hidden_size)
    return Parts(
        where=str(folder),
        model_type="canary",
        config=from_dict(CanaryConfig, values, "config.json"),
        assets=tokenizer_assets(read_json(folder / "tokenizer.json"), size, write_specials=True),
        tensors=tensors,
        details={
            "format": "transformers folder (canary)",
            "written by": f"transformers {config.get('transformers_version', 'of unknown version')}",
        },
    )


def _ours(name: str) -> str:
    if name.startswith("model.encoder."):
        return rename(name.removeprefix("model."))
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _decoder(config: Mapping[str, Any]) -> TransformerDecoderConfig:
    theirs = config.get("decoder_config")
    if not isinstance(theirs, Mapping):
        raise ConfigError("config.json has no decoder_config")
    heads = theirs.get("num_attention_heads", 8)
    width = theirs.get("hidden_size", 1024)
    for key, only in (
        ("num_key_value_heads", heads),
        ("attention_bias", True),
        ("head_dim", width // heads),
    ):
        if theirs.get(key, only) not in (only, None):
            raise ConfigError(f"decoder_config.{key}={theirs[key]!r} is not supported; only {only!r} is")
    dropout = float(theirs.get("attention_dropout") or 0.0)
    values = {
        "hidden_size": width,
        "inner_size": theirs.get("intermediate_size", 4096),
        "n_layers": theirs.get("num_hidden_layers", 8),
        "n_heads": heads,
        "max_sequence_length": theirs.get("max_position_embeddings", 1024),
        "activation": theirs.get("hidden_act", "relu"),
        "attention_dropout": dropout,
    }
    return from_dict(TransformerDecoderConfig, values, "decoder_config")


def _positions(length: int, width: int) -> Tensor:
    """Sines, then cosines, of the rates NeMo uses: [length, D]."""
    rates = torch.exp(torch.arange(0.0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(0.0, length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1) / math.sqrt(width)
