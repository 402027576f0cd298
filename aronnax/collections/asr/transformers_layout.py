"""transformers' Parakeet folders (CTC, RNN-T, TDT): config.json, safetensors and tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aronnax.collections.asr.ctc.model import CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.transducer.model import TransducerModelConfig
from aronnax.collections.asr.transformers_tokenizer import tokenizer_assets
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.core.checkpoint import read_safetensors
from aronnax.core.config import from_dict
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.parts import Parts

_MAX_JSON = 64 * 2**20
# Their name -> ours, for every tensor; `joint.head` is joint_net.2 because our joint has dropout before it.
_RENAMES = (
    (r"encoder\.subsampling\.layers\.(\d+)\.", r"encoder.pre_encode.conv.\1."),
    (r"encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
    (r"\.self_attn\.bias_([uv])$", r".self_attn.pos_bias_\1"),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"^ctc_head\.", "decoder.decoder_layers.0."),
    (r"^encoder_projector\.", "joint.enc."),
    (r"^decoder\.decoder_projector\.", "joint.pred."),
    (r"^decoder\.embedding\.", "decoder.prediction.embed."),
    (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"^joint\.head\.", "joint.joint_net.2."),
)


def read(folder: Path) -> Parts:
    """Open a folder that transformers wrote.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: the model has an option that is not supported.
    """
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    blank = config.get("pad_token_id" if kind == "parakeet_ctc" else "blank_token_id")
    size = config.get("vocab_size")
    if not isinstance(size, int) or blank != size - 1:
        raise ConfigError(
            f"{folder}: the blank is token {blank} of {size}; only a blank that comes last is supported"
        )
    shared: dict[str, Any] = {
        "vocab_size": size - 1,
        "preprocessor": front_end_of(folder, config),
        "encoder": encoder_of(config),
    }
    model = CTCModelConfig(**shared) if kind == "parakeet_ctc" else _transducer(config, kind, shared)
    return Parts(
        where=str(folder),
        model_type="ctc" if kind == "parakeet_ctc" else "transducer",
        config=model,
        assets=tokenizer_assets(read_json(folder / "tokenizer.json"), size - 1),
        tensors={rename(name): tensor for name, tensor in tensors_of(folder).items()},
        details={
            "format": f"transformers folder ({kind})",
            "written by": f"transformers {config.get('transformers_version', 'of unknown version')}",
        },
    )


def rename(name: str) -> str:
    """The name of a transformers tensor in our models.

    >>> rename("encoder.layers.3.self_attn.q_proj.weight")
    'encoder.layers.3.self_attn.linear_q.weight'
    """
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def encoder_of(config: Mapping[str, Any]) -> FastConformerConfig:
    """The encoder's configuration from config.json; ConfigError names an option that is not supported."""
    theirs = config.get("encoder_config")
    if not isinstance(theirs, Mapping):
        raise ConfigError("config.json has no encoder_config")
    for key, only in (
        ("hidden_act", "silu"),
        ("subsampling_conv_kernel_size", 3),
        ("subsampling_conv_stride", 2),
        ("convolution_bias", theirs.get("attention_bias", True)),
    ):
        if theirs.get(key, only) != only:
            raise ConfigError(f"encoder_config.{key}={theirs[key]!r} is not supported; only {only!r} is")
    width = theirs.get("hidden_size", 1024)
    inner = theirs.get("intermediate_size", 4096)
    if not isinstance(width, int) or width <= 0 or inner % width:
        raise ConfigError(
            f"encoder_config.intermediate_size={inner!r} must be a multiple of hidden_size={width!r}"
        )
    values = {
        "feat_in": theirs.get("num_mel_bins", 80),
        "n_layers": theirs.get("num_hidden_layers", 24),
        "d_model": width,
        "n_heads": theirs.get("num_attention_heads", 8),
        "ff_expansion_factor": inner // width,
        "subsampling_factor": theirs.get("subsampling_factor", 8),
        "subsampling_conv_channels": theirs.get("subsampling_conv_channels", 256),
        "conv_kernel_size": theirs.get("conv_kernel_size", 9),
        "use_bias": theirs.get("attention_bias", True),
        "xscaling": theirs.get("scale_input", True),
        "dropout": theirs.get("activation_dropout", 0.1),
        "dropout_pre_encoder": theirs.get("dropout", 0.1),
        "dropout_emb": theirs.get("dropout_positions", 0.0),
        "dropout_att": theirs.get("attention_dropout", 0.1),
    }
    return from_dict(FastConformerConfig, values, "encoder_config")


def _transducer(config: Mapping[str, Any], kind: str, shared: dict[str, Any]) -> TransducerModelConfig:
    width = config.get("decoder_hidden_size", 640)
    values = {
        **shared,
        "prediction": {"hidden": width, "layers": config.get("num_decoder_layers", 2)},
        "joint": {"hidden": width, "activation": config.get("hidden_act", "relu")},
        "durations": config.get("durations", [0, 1, 2, 3, 4]) if kind == "parakeet_tdt" else [],
        "max_symbols": config.get("max_symbols_per_step", 10),
    }
    return from_dict(TransducerModelConfig, values, "config.json")


def front_end_of(folder: Path, config: Mapping[str, Any]) -> LogMelConfig:
    """The feature extractor's settings; the published ones where the folder does not say."""
    theirs: Mapping[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        theirs = read_json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        theirs = read_json(folder / "processor_config.json").get("feature_extractor") or {}
    rate = theirs.get("sampling_rate", 16000)
    encoder = config.get("encoder_config")
    bands = encoder.get("num_mel_bins", 80) if isinstance(encoder, Mapping) else 80
    values = {
        "sample_rate": rate,
        "n_mels": theirs.get("feature_size", bands),
        "n_fft": theirs.get("n_fft", 512),
        "window_size": theirs.get("win_length", 400) / rate,
        "window_stride": theirs.get("hop_length", 160) / rate,
        "preemphasis": theirs.get("preemphasis", 0.97) or 0.0,
    }
    return from_dict(LogMelConfig, values, "preprocessor_config")


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of one file, or of the shards an index lists."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return read_safetensors(folder / "model.safetensors")[0]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, Mapping):
        raise CheckpointError(f"{index} has no weight_map")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(map(str, shards.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{index} refers to {name!r}, which is not a file beside it")
        tensors |= read_safetensors(folder / name)[0]
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of the folder; CheckpointError if it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the folder is not a complete transformers checkpoint")
    if path.stat().st_size > _MAX_JSON:
        raise CheckpointError(f"{path} is larger than any such file")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return data
