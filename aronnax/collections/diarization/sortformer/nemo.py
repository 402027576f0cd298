"""NeMo's SortformerEncLabelModel (diar_sortformer_4spk-v1, diar_streaming_sortformer_4spk-v2 and v2.1), each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.nemo import Section, shared_from_nemo, shared_to_nemo
from aronnax.collections.diarization.sortformer.config import (
    Profile,
    SortformerConfig,
    SpeakerCacheConfig,
    TransformerConfig,
)
from aronnax.collections.diarization.sortformer.model import SCALE_GUARD
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError
from aronnax.core.registry import NemoFamily, ReadFile

_MODULES = "nemo.collections.asr.modules"
# Ours -> (NeMo's name, the default of NeMo's constructor).
_PROFILE = {
    "chunk": ("chunk_len", 188),
    "right": ("chunk_right_context", 1),
    "fifo": ("fifo_len", 0),
    "update": ("spkcache_update_period", 188),
    "cache": ("spkcache_len", 188),
    "left": ("chunk_left_context", 1),
}
_CACHE = {
    "silence_slots": ("spkcache_sil_frames_per_spk", 3),
    "floor": ("pred_score_threshold", 0.25),
    "recent_boost": ("scores_boost_latest", 0.05),
    "silence_threshold": ("sil_threshold", 0.2),
    "strong_rate": ("strong_boost_rate", 0.75),
    "weak_rate": ("weak_boost_rate", 1.5),
    "alone_rate": ("min_pos_scores_rate", 0.5),
    "noise": ("scores_add_rnd", 0),
}
_TRANSFORMER = {
    "n_layers": ("num_layers", ...),
    "width": ("hidden_size", ...),
    "inner": ("inner_size", ...),
    "n_heads": ("num_attention_heads", 1),
    "activation": ("hidden_act", "relu"),
    "dropout_att": ("attn_score_dropout", 0.0),
    "dropout": ("attn_layer_dropout", 0.0),
    "dropout_ff": ("ffn_dropout", 0.0),
}


def config_from_nemo(nemo: Mapping[str, Any]) -> SortformerConfig:
    """NeMo's configuration -> ours."""
    shared = shared_from_nemo(nemo)
    transformer = _transformer_from_nemo(nemo)
    modules = Section(nemo, "sortformer_modules", "SortformerModules")
    speakers = modules.take("num_spks", 4)
    modules.require("fc_d_model", 512, shared["encoder"].d_model)
    modules.require("tf_d_model", 192, transformer.width)
    modules.require("subsampling_factor", 8, shared["encoder"].subsampling_factor)
    values = {
        **shared,
        "max_speakers": speakers,
        "transformer": transformer,
        "head_dropout": modules.take("dropout_rate", 0.5),
        "streaming": nemo.get("streaming_mode", False),
        "asynchronous": nemo.get("async_streaming", False),
        "profile": from_dict(Profile, _taken(modules, _PROFILE), modules.name),
        "cache": from_dict(SpeakerCacheConfig, _taken(modules, _CACHE), modules.name),
        "limited_rate": modules.take("causal_attn_rate", 0),
        "limited_right": modules.take("causal_attn_rc", 7),
        "sort_weight": nemo.get("ats_weight", 1.0),
        "pil_weight": nemo.get("pil_weight", 0.0),
    }
    modules.ignore("max_index")
    modules.finish()
    if nemo.get("max_num_of_spks", speakers) != speakers:
        raise ConfigError(f"max_num_of_spks={nemo['max_num_of_spks']} differs from num_spks={speakers}")
    if nemo.get("eps", SCALE_GUARD) != SCALE_GUARD:
        raise ConfigError(f"eps={nemo['eps']!r} is not supported; only {SCALE_GUARD} is")
    return from_dict(SortformerConfig, values, "model")


def config_to_nemo(config: SortformerConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """Our configuration -> NeMo's."""
    transformer = config.transformer
    widths = {"fc_d_model": config.encoder.d_model, "tf_d_model": transformer.width}
    return {
        **shared_to_nemo(config, "sortformer_diar_models.SortformerEncLabelModel"),
        "max_num_of_spks": config.max_speakers,
        "streaming_mode": config.streaming,
        "async_streaming": config.asynchronous,
        "ats_weight": config.sort_weight,
        "pil_weight": config.pil_weight,
        "model_defaults": widths,
        "sortformer_modules": {
            "_target_": f"{_MODULES}.sortformer_modules.SortformerModules",
            "num_spks": config.max_speakers,
            "dropout_rate": config.head_dropout,
            **widths,
            "subsampling_factor": config.encoder.subsampling_factor,
            **_given(config.profile, _PROFILE),
            **_given(config.cache, _CACHE),
            "causal_attn_rate": config.limited_rate,
            "causal_attn_rc": config.limited_right,
        },
        "transformer_encoder": {
            "_target_": f"{_MODULES}.transformer.transformer_encoders.TransformerEncoder",
            **_given(transformer, _TRANSFORMER),
            "mask_future": False,
            "pre_ln": False,
            "pre_ln_final_layer_norm": True,
        },
        "loss": {
            "_target_": "nemo.collections.asr.losses.bce_loss.BCELoss",
            "weight": None,
            "reduction": "mean",
        },
    }


def _transformer_from_nemo(nemo: Mapping[str, Any]) -> TransformerConfig:
    section = Section(nemo, "transformer_encoder", "TransformerEncoder")
    values = _taken(section, _TRANSFORMER)
    section.require("pre_ln", False)
    section.require("mask_future", False)
    section.ignore("pre_ln_final_layer_norm")
    section.finish()
    return from_dict(TransformerConfig, values, section.name)


def _taken(section: Section, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {ours: section.take(theirs, default) for ours, (theirs, default) in names.items()}


def _given(config: Any, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {theirs: getattr(config, ours) for ours, (theirs, _) in names.items()}


def _no_assets(nemo: Mapping[str, Any], read: ReadFile) -> dict[str, bytes]:
    return {}


def _no_files(assets: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    return {}


FAMILY = NemoFamily("sortformer", config_from_nemo, config_to_nemo, _no_assets, _no_files)
