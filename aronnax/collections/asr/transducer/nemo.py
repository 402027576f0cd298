"""NeMo's EncDecRNNTModel and EncDecRNNTBPEModel (RNN-T and TDT), each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.nemo import Section, shared_from_nemo, shared_to_nemo, vocabulary_size
from aronnax.collections.asr.nemo_tokenizers import (
    assets_from_nemo,
    files_to_nemo,
    tokenizer_of,
    tokenizer_section,
)
from aronnax.collections.asr.transducer.joint import JointConfig
from aronnax.collections.asr.transducer.model import TransducerModelConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError
from aronnax.core.registry import NemoFamily

_MODULES = "nemo.collections.asr.modules"


def config_from_nemo(nemo: Mapping[str, Any]) -> TransducerModelConfig:
    """NeMo's configuration -> ours."""
    values = {**shared_from_nemo(nemo), **transducer_from_nemo(nemo)}
    return from_dict(TransducerModelConfig, values, "model")


def config_to_nemo(config: TransducerModelConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """Our configuration -> NeMo's."""
    bpe = tokenizer_section(assets) is not None
    nemo = shared_to_nemo(config, "EncDecRNNTBPEModel" if bpe else "EncDecRNNTModel")
    return {**nemo, **transducer_to_nemo(config, assets)}


def transducer_from_nemo(nemo: Mapping[str, Any]) -> dict[str, Any]:
    """The fields a transducer adds: vocab_size, prediction, joint, durations, max_symbols."""
    decoder, prediction = _prediction(nemo)
    joint, size, extra = _joint(nemo, decoder)
    return {
        "vocab_size": size,
        "prediction": prediction,
        "joint": joint,
        "durations": _durations(nemo, extra),
        "max_symbols": _max_symbols(nemo),
    }


def transducer_to_nemo(config: TransducerModelConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """The sections of a transducer."""
    vocabulary = list(tokenizer_of(assets).vocabulary)
    section = tokenizer_section(assets)
    durations = list(config.durations)
    hidden = config.prediction.hidden
    decoding: dict[str, Any] = {
        "strategy": "greedy_batch",
        "model_type": "tdt" if durations else "rnnt",
        "greedy": {"max_symbols": config.max_symbols},
    }
    loss: dict[str, Any] = {"loss_name": "default"}
    if durations:
        decoding["durations"] = durations
        loss = {"loss_name": "tdt", "tdt_kwargs": {"durations": durations, "sigma": 0.02, "omega": 0.1}}
    return {
        "model_defaults": {
            "enc_hidden": config.encoder.d_model,
            "pred_hidden": hidden,
            "joint_hidden": config.joint.hidden,
            **({"tdt_durations": durations, "num_tdt_durations": len(durations)} if durations else {}),
        },
        **({"tokenizer": section} if section else {}),
        "labels": vocabulary,
        "decoder": {
            "_target_": f"{_MODULES}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "vocab_size": len(vocabulary),
            "prednet": {
                "pred_hidden": hidden,
                "pred_rnn_layers": config.prediction.layers,
                "t_max": None,
                "dropout": config.prediction.dropout,
            },
        },
        "joint": {
            "_target_": f"{_MODULES}.RNNTJoint",
            "log_softmax": None,
            "fuse_loss_wer": False,
            "num_classes": len(vocabulary),
            "num_extra_outputs": len(durations),
            "vocabulary": vocabulary,
            "jointnet": {
                "encoder_hidden": config.encoder.d_model,
                "pred_hidden": hidden,
                "joint_hidden": config.joint.hidden,
                "activation": config.joint.activation,
                "dropout": config.joint.dropout,
            },
        },
        "decoding": decoding,
        "loss": loss,
    }


def _prediction(nemo: Mapping[str, Any]) -> tuple[Section, PredictionConfig]:
    decoder = Section(nemo, "decoder", "RNNTDecoder")
    decoder.require("normalization_mode", None)
    decoder.require("random_state_sampling", False)
    decoder.require("blank_as_pad", True)
    decoder.ignore("prednet")
    net = Section(nemo, "decoder.prednet")
    hidden = net.take("pred_hidden")
    values = {
        "hidden": hidden,
        "layers": net.take("pred_rnn_layers"),
        # NeMo takes a missing dropout, and None, for none at all.
        "dropout": net.take("dropout", 0.0) or 0.0,
    }
    net.require("rnn_hidden_size", -1, None, hidden)
    # Of the initial weights only.
    net.ignore("t_max", "forget_gate_bias", "weights_init_scale", "hidden_hidden_bias_scale")
    net.finish()
    return decoder, from_dict(PredictionConfig, values, "decoder.prednet")


def _joint(nemo: Mapping[str, Any], decoder: Section) -> tuple[JointConfig, int, int]:
    """The joint, its vocabulary without the blank, and how many outputs are not tokens."""
    joint = Section(nemo, "joint", "RNNTJoint")
    size = vocabulary_size(
        joint.take("num_classes", None),
        decoder.take("vocab_size", None),
        joint.take("vocabulary", None),
        nemo.get("labels"),
    )
    decoder.finish()
    extra = joint.take("num_extra_outputs", 0)
    masking = joint.take("masking_prob", -1.0)
    if masking is not None and masking > 0:
        raise ConfigError(
            f"joint.masking_prob={masking} is not supported; only joints that always see the text are"
        )
    joint.ignore(
        "jointnet",
        "log_softmax",
        "preserve_memory",
        "fuse_loss_wer",
        "fused_batch_size",
        "experimental_fuse_loss_wer",
    )
    joint.finish()
    net = Section(nemo, "joint.jointnet")
    net.ignore("encoder_hidden", "pred_hidden")
    values = {
        "hidden": net.take("joint_hidden"),
        "activation": net.take("activation"),
        "dropout": net.take("dropout", 0.0) or 0.0,
    }
    net.finish()
    return from_dict(JointConfig, values, "joint.jointnet"), size, extra


def _durations(nemo: Mapping[str, Any], extra: Any) -> list[int]:
    loss, decoding, defaults = (_mapping(nemo.get(key)) for key in ("loss", "decoding", "model_defaults"))
    name = loss.get("loss_name", "default")
    if name == "multiblank_rnnt" or decoding.get("big_blank_durations"):
        raise ConfigError("decoding.big_blank_durations (multi-blank transducers) are not supported")
    places = (
        _mapping(loss.get("tdt_kwargs")).get("durations") if name == "tdt" else None,
        decoding.get("durations"),
        defaults.get("tdt_durations"),
    )
    if not extra:
        return []
    for durations in places:
        if isinstance(durations, list) and len(durations) == extra:
            return durations
    raise ConfigError(f"joint.num_extra_outputs is {extra}, but the configuration lists no {extra} durations")


def _max_symbols(nemo: Mapping[str, Any]) -> int:
    greedy = _mapping(_mapping(nemo.get("decoding")).get("greedy"))
    value = greedy.get("max_symbols", greedy.get("max_symbols_per_step"))
    return value if isinstance(value, int) and value > 0 else 10


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


FAMILY = NemoFamily("transducer", config_from_nemo, config_to_nemo, assets_from_nemo, files_to_nemo)
