"""NeMo's configuration of what all recognisers share, each way: front end, encoder, SpecAugment, vocabulary.

Keys that an archive lacks take the defaults of NeMo's own constructors, which are not ours. A key or value that
would change the numbers and is not supported is a ConfigError that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.core.config import from_dict, nearest, to_dict
from aronnax.core.errors import ConfigError

NEMO_VERSION = "3.0.0"
"""The version whose reader our archives are written for."""
_MODULES = "nemo.collections.asr.modules"
# Keys of the encoder that have the same name and meaning on both sides, with the default of NeMo's constructor.
_ENCODER = {
    "feat_in": ...,
    "n_layers": ...,
    "d_model": ...,
    "subsampling": "striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": -1,
    "causal_downsampling": False,
    "ff_expansion_factor": 4,
    "n_heads": 4,
    "self_attention_model": "rel_pos",
    "att_context_probs": None,
    "att_context_style": "regular",
    "xscaling": True,
    "untie_biases": True,
    "conv_kernel_size": 31,
    "conv_norm_type": "batch_norm",
    "conv_context_size": None,
    "use_bias": True,
    "global_tokens": 0,
    "global_tokens_spacing": 1,
    "global_attn_separate": False,
    "dropout": 0.1,
    "dropout_pre_encoder": 0.1,
    "dropout_emb": 0.1,
    "dropout_att": 0.0,
    "stochastic_depth_drop_prob": 0.0,
    "stochastic_depth_mode": "linear",
    "stochastic_depth_start_layer": 1,
}


class Section:
    """One part of a NeMo configuration, read key by key; what nobody asked for is an error in the end."""

    def __init__(self, nemo: Mapping[str, Any], name: str, module: str | None = None) -> None:
        data: Any = nemo
        for key in name.split(".") if name else ():
            data = data.get(key) if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping):
            raise ConfigError(f"the NeMo configuration has no section {name!r}")
        self.name = name
        self.left = dict(data)
        if module is not None:
            self._check_module(str(self.left.pop("_target_", module)), module)

    def take(self, key: str, default: Any = ...) -> Any:
        """The value of `key`, which counts as read; without a default it must be there."""
        value = self.left.pop(key, default)
        if value is ...:
            raise ConfigError(f"{self.name}.{key} is missing from the NeMo configuration")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Refuse every value of `key` but these; the first is NeMo's default."""
        value = self.left.pop(key, allowed[0])
        if value not in allowed:
            raise ConfigError(f"{self.name}.{key}={value!r} is not supported; only {allowed[0]!r} is")

    def ignore(self, *keys: str) -> None:
        """Keys that do not change what the model computes."""
        for key in keys:
            self.left.pop(key, None)

    def finish(self, known: Mapping[str, Any] | None = None) -> None:
        """Refuse keys that were not read."""
        for key in self.left:
            hint = f"; {nearest(key, known)}" if known else ""
            raise ConfigError(f"{self.name}.{key} is not an option that aronnax supports{hint}")

    def _check_module(self, target: str, module: str) -> None:
        found = target.rpartition(".")[2]
        if found != module:
            raise ConfigError(f"{self.name}._target_ is {found}, which is not supported; only {module} is")


def shared_from_nemo(nemo: Mapping[str, Any]) -> dict[str, Any]:
    """The fields every recogniser's config has: preprocessor, encoder, spec_augment."""
    return {
        "preprocessor": preprocessor_from_nemo(nemo),
        "encoder": encoder_from_nemo(nemo),
        "spec_augment": spec_augment_from_nemo(nemo),
    }


def preprocessor_from_nemo(nemo: Mapping[str, Any]) -> LogMelConfig:
    """`preprocessor` of a NeMo configuration -> LogMelConfig."""
    section = Section(nemo, "preprocessor", "AudioToMelSpectrogramPreprocessor")
    rate = section.take("sample_rate", 16000)
    size = _seconds(section, "window_size", 0.02, rate)
    stride = _seconds(section, "window_stride", 0.01, rate)
    n_fft = section.take("n_fft", None) or 2 ** math.ceil(math.log2(max(int(size * rate), 1)))
    window = section.take("window", "hann")
    values = {
        "sample_rate": rate,
        "window_size": size,
        "window_stride": stride,
        "n_fft": n_fft,
        "window": "ones" if window in (None, "none") else window,
        "n_mels": section.take("features", 64),
        "normalize": _normalisation(section.take("normalize", "per_feature")),
        "dither": section.take("dither", 1e-5),
        "preemphasis": section.take("preemph", 0.97) or 0.0,
        "pad_to": section.take("pad_to", 16),
        "mag_power": section.take("mag_power", 2.0),
        "log_zero_guard": section.take("log_zero_guard_type", "add"),
        "log_zero_guard_value": section.take("log_zero_guard_value", 2**-24),
        "low_freq": section.take("lowfreq", 0),
        "high_freq": section.take("highfreq", None),
    }
    section.require("log", True)
    section.require("frame_splicing", 1)
    section.require("exact_pad", False)
    section.require("pad_value", 0)
    section.require("mel_norm", "slaney")
    section.require("nb_augmentation_prob", 0.0)
    section.ignore("rng", "nb_max_freq", "use_torchaudio", "stft_exact_pad", "stft_conv")
    section.finish()
    return from_dict(LogMelConfig, values, "preprocessor")


def preprocessor_to_nemo(config: LogMelConfig) -> dict[str, Any]:
    """LogMelConfig -> `preprocessor` of a NeMo configuration."""
    return {
        "_target_": f"{_MODULES}.AudioToMelSpectrogramPreprocessor",
        "sample_rate": config.sample_rate,
        "normalize": "NA" if config.normalize == "none" else config.normalize,
        "window_size": config.window_size,
        "window_stride": config.window_stride,
        "window": "none" if config.window == "ones" else config.window,
        "features": config.n_mels,
        "n_fft": config.n_fft,
        "log": True,
        "log_zero_guard_type": config.log_zero_guard,
        "log_zero_guard_value": config.log_zero_guard_value,
        "frame_splicing": 1,
        "dither": config.dither,
        "pad_to": config.pad_to,
        "preemph": config.preemphasis or None,
        "mag_power": config.mag_power,
        "lowfreq": config.low_freq,
        "highfreq": config.high_freq,
    }


def encoder_from_nemo(nemo: Mapping[str, Any]) -> FastConformerConfig:
    """`encoder` of a NeMo configuration -> FastConformerConfig."""
    section = Section(nemo, "encoder", "ConformerEncoder")
    values = {key: section.take(key, default) for key, default in _ENCODER.items()}
    values["att_context_size"] = _contexts(section.take("att_context_size", None))
    values["att_context_probs"] = values["att_context_probs"] or None
    section.require("feat_out", -1, 0, None, values["d_model"])
    section.require("reduction", None)
    section.require("conv_context_style", "regular")
    section.require("att_chunk_context_size", None)
    section.ignore(
        "reduction_position",
        "reduction_factor",
        "pos_emb_max_len",
        "subsampling_conv_chunking_factor",
        "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends",
        "sync_max_audio_length",
    )
    section.finish(_ENCODER)
    return from_dict(FastConformerConfig, values, "encoder")


def encoder_to_nemo(config: FastConformerConfig) -> dict[str, Any]:
    """FastConformerConfig -> `encoder` of a NeMo configuration."""
    plain = to_dict(config)
    contexts = plain["att_context_size"]
    return {
        "_target_": f"{_MODULES}.ConformerEncoder",
        "feat_out": -1,
        **{key: plain[key] for key in _ENCODER},
        "att_context_size": contexts[0] if len(contexts) == 1 else contexts,
        "pos_emb_max_len": 5000,
    }


def spec_augment_from_nemo(nemo: Mapping[str, Any]) -> SpecAugmentConfig:
    """`spec_augment` of a NeMo configuration -> SpecAugmentConfig; without one nothing is masked."""
    if nemo.get("spec_augment") is None:
        return SpecAugmentConfig()
    section = Section(nemo, "spec_augment", "SpectrogramAugmentation")
    values = {
        "freq_masks": section.take("freq_masks", 0),
        "time_masks": section.take("time_masks", 0),
        "freq_width": section.take("freq_width", 10),
        "time_width": section.take("time_width", 10),
    }
    section.require("rect_masks", 0)
    section.require("mask_value", 0.0)
    section.ignore("rect_time", "rect_freq", "rng", "use_vectorized_spec_augment", "use_numba_spec_augment")
    section.finish()
    return from_dict(SpecAugmentConfig, values, "spec_augment")


def spec_augment_to_nemo(config: SpecAugmentConfig) -> dict[str, Any]:
    """SpecAugmentConfig -> `spec_augment` of a NeMo configuration."""
    width = config.time_width
    return {
        "_target_": f"{_MODULES}.SpectrogramAugmentation",
        "freq_masks": config.freq_masks,
        "time_masks": config.time_masks,
        "freq_width": config.freq_width,
        # NeMo tells a share from a number of frames by the type.
        "time_width": int(width) if width >= 1 else width,
    }


def shared_to_nemo(config: Any, target: str) -> dict[str, Any]:
    """The sections every recogniser's NeMo configuration has."""
    return {
        "target": f"nemo.collections.asr.models.{target}",
        "nemo_version": NEMO_VERSION,
        "sample_rate": config.preprocessor.sample_rate,
        "preprocessor": preprocessor_to_nemo(config.preprocessor),
        "spec_augment": spec_augment_to_nemo(config.spec_augment),
        "encoder": encoder_to_nemo(config.encoder),
        "train_ds": None,
        # NeMo's `transcribe` looks into this section.
        "validation_ds": {
            "manifest_filepath": None,
            "sample_rate": config.preprocessor.sample_rate,
            "batch_size": 8,
            "shuffle": False,
            "use_start_end_token": False,
        },
        "test_ds": None,
    }


def vocabulary_size(*candidates: Any) -> int:
    """The first of the candidates that says how many tokens there are: a positive number or a list of them."""
    for candidate in candidates:
        if isinstance(candidate, int) and not isinstance(candidate, bool) and candidate > 0:
            return candidate
        if isinstance(candidate, list) and candidate:
            return len(candidate)
    raise ConfigError("the NeMo configuration does not say how many tokens the vocabulary has")


def ctc_head_size(nemo: Mapping[str, Any], name: str, d_model: int) -> int:
    """Tokens of the CTC head configured by the section `name`."""
    section = Section(nemo, name, "ConvASRDecoder")
    section.require("feat_in", None, d_model)
    section.require("add_blank", True)
    section.ignore("init_mode")
    size = vocabulary_size(section.take("num_classes", None), section.take("vocabulary", None))
    section.finish()
    return size


def ctc_head_to_nemo(d_model: int, vocabulary: list[str]) -> dict[str, Any]:
    """The section of a CTC head."""
    return {
        "_target_": f"{_MODULES}.ConvASRDecoder",
        "feat_in": d_model,
        "num_classes": len(vocabulary),
        "vocabulary": vocabulary,
    }


def _seconds(section: Section, key: str, default: float, rate: int) -> float:
    """A length given in seconds, or in samples under the key `n_...`."""
    seconds, samples = section.take(key, default), section.take(f"n_{key}", None)
    if not samples:
        if not isinstance(seconds, (int, float)):
            raise ConfigError(f"{section.name}.{key} is {seconds!r}; it must be a number of seconds")
        return float(seconds)
    exact = samples / rate
    return float(exact if int(exact * rate) == samples else (samples + 0.5) / rate)


def _normalisation(value: Any) -> str:
    if isinstance(value, Mapping):
        raise ConfigError("preprocessor.normalize with fixed means and deviations is not supported")
    return value if value in ("per_feature", "all_features") else "none"


def _contexts(value: Any) -> list[Any]:
    if not value:
        return [[-1, -1]]
    if not isinstance(value, list):
        raise ConfigError(f"encoder.att_context_size is {value!r}; it must be a pair or a list of pairs")
    return [value] if isinstance(value[0], int) else value
