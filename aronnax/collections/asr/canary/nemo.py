"""NeMo's EncDecMultiTaskModel, each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.nemo import Section, shared_from_nemo, shared_to_nemo
from aronnax.collections.asr.nemo_tokenizers import assets_from_nemo, files_to_nemo, tokenizer_section
from aronnax.collections.common.text.prompts import prompt_format
from aronnax.core.config import from_dict
from aronnax.core.errors import CheckpointError, ConfigError, OptionError
from aronnax.core.registry import NemoFamily

_TOKENIZERS = "nemo.collections.common.tokenizers.canary_tokenizer"
# Our field of the decoder -> NeMo's key and the default of its constructor.
_DECODER = {
    "hidden_size": ("hidden_size", ...),
    "inner_size": ("inner_size", ...),
    "n_layers": ("num_layers", ...),
    "n_heads": ("num_attention_heads", ...),
    "max_sequence_length": ("max_sequence_length", 512),
    "activation": ("hidden_act", "relu"),
    "pre_ln": ("pre_ln", False),
    "learned_positions": ("learn_positional_encodings", False),
    "embedding_dropout": ("embedding_dropout", 0.0),
    "attention_dropout": ("attn_score_dropout", 0.0),
    "layer_dropout": ("attn_layer_dropout", 0.0),
    "ffn_dropout": ("ffn_dropout", 0.0),
}


def config_from_nemo(nemo: Mapping[str, Any]) -> CanaryConfig:
    """NeMo's configuration -> ours; `vocab_size` is the rounded one, the only one it holds."""
    _check_between(nemo)
    decoder, written = _decoder_from_nemo(nemo)
    outputs = _outputs(nemo, written)
    values = {
        **shared_from_nemo(nemo),
        "vocab_size": outputs,
        "decoder": decoder,
        "prompt_format": _prompt_name(nemo),
        "prompt_defaults": _defaults_from_nemo(nemo),
        "decoding": _decoding_from_nemo(nemo.get("decoding")),
    }
    return from_dict(CanaryConfig, values, "model")


def config_to_nemo(config: CanaryConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """Our configuration -> NeMo's."""
    section = tokenizer_section(assets)
    if section is None:
        raise CheckpointError("NeMo's prompted models have a SentencePiece tokenizer, not single characters")
    aggregate = section["type"] == "agg"
    custom = f"{_TOKENIZERS}.{'CanaryTokenizer' if aggregate else 'CanaryBPETokenizer'}"
    width = config.decoder.hidden_size
    return {
        **shared_to_nemo(config, "aed_multitask_models.EncDecMultiTaskModel"),
        "prompt_format": config.prompt_format,
        "prompt_defaults": _defaults_to_nemo(config),
        "model_defaults": {
            "asr_enc_hidden": config.encoder.d_model,
            "lm_enc_hidden": width,
            "lm_dec_hidden": width,
        },
        "tokenizer": {**section, "custom_tokenizer": {"_target_": custom, "tokenizers": None}},
        "transf_encoder": None,
        "transf_decoder": _decoder_to_nemo(config),
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": width,
            "num_classes": config.outputs,
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "beam",
            "return_best_hypothesis": True,
            "beam": {
                "beam_size": config.decoding.beam,
                "length_penalty": config.decoding.length_penalty,
                "max_generation_delta": config.decoding.max_generation_delta,
            },
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
            "pad_id": None,
        },
    }


def _check_between(nemo: Mapping[str, Any]) -> None:
    """NeMo can put a Transformer encoder between; no public model has one."""
    between = nemo.get("transf_encoder")
    layers = between.get("num_layers", 0) if isinstance(between, Mapping) else 0
    if layers:
        raise ConfigError(f"transf_encoder.num_layers={layers!r} is not supported; only 0 is")


def _decoder_from_nemo(nemo: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The decoder's fields, and how many outputs it says it has; NeMo often leaves that to the head."""
    outer = Section(nemo, "transf_decoder", "get_nemo_transformer")
    outer.take("config_dict")
    outer.require("model_name", None, "")
    outer.require("pretrained", False)
    outer.require("encoder", None, False)
    outer.ignore("library")
    final = outer.take("pre_ln_final_layer_norm", True)
    outer.finish()
    section = Section(nemo, "transf_decoder.config_dict")
    values = {field: section.take(key, default) for field, (key, default) in _DECODER.items()}
    values = {field: float(v) if field.endswith("dropout") else v for field, v in values.items()}
    outputs = section.take("vocab_size", None)
    # Kinds of tokens are never given to the decoder; the final norm is read one level above.
    section.ignore("num_token_types", "library", "model_name", "pretrained", "r2l", "pre_ln_final_layer_norm")
    section.finish()
    return {**values, "pre_ln_final": final}, outputs


def _decoder_to_nemo(config: CanaryConfig) -> dict[str, Any]:
    inner = {key: getattr(config.decoder, field) for field, (key, _) in _DECODER.items()}
    return {
        "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
        "model_name": None,
        "pretrained": False,
        "encoder": None,
        "pre_ln_final_layer_norm": config.decoder.pre_ln_final,
        "config_dict": {**inner, "num_token_types": 0, "vocab_size": config.outputs},
    }


def _outputs(nemo: Mapping[str, Any], decoder: Any) -> int:
    """How many outputs there are; ConfigError if head and decoder say different numbers, or neither says one."""
    head = Section(nemo, "head", "TokenClassifier")
    head.require("num_layers", 1)
    head.require("log_softmax", True)
    said = {size for size in (head.take("num_classes", None), decoder) if isinstance(size, int) and size > 0}
    # One layer has no activation inside, and dropout and initial values are of no use here.
    head.ignore("hidden_size", "activation", "dropout", "use_transformer_init")
    head.finish()
    if len(said) != 1:
        raise ConfigError(
            f"head.num_classes and the decoder's vocab_size must be one number; found {sorted(said)}"
        )
    return said.pop()


def _prompt_name(nemo: Mapping[str, Any]) -> str:
    name = str(nemo.get("prompt_format"))
    try:
        return prompt_format(name).name
    except OptionError as error:
        raise ConfigError(str(error)) from None


def _defaults_from_nemo(nemo: Mapping[str, Any]) -> dict[str, str]:
    """Slots of the user's turn; YAML may have read `yes` as a truth value."""
    slots: dict[str, str] = {}
    for turn in nemo.get("prompt_defaults") or []:
        if (
            isinstance(turn, Mapping)
            and turn.get("role") == "user"
            and isinstance(turn.get("slots"), Mapping)
        ):
            slots |= {str(name): _said(value) for name, value in turn["slots"].items() if value is not None}
    return slots


def _said(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _defaults_to_nemo(config: CanaryConfig) -> list[dict[str, Any]] | None:
    """NeMo asks for a value of every slot that a caller leaves out, so those we take by ourselves are written."""
    slots = prompt_format(config.prompt_format).slots
    own = {name: slot.default for name, slot in slots.items() if slot.default is not None}
    given = {
        name: slots[name].render(value) for name, value in config.prompt_defaults.items() if name in slots
    }
    return [{"role": "user", "slots": {**own, **given}}]


def _decoding_from_nemo(decoding: Any) -> dict[str, Any]:
    """Beam, length penalty and limit under NeMo's rules; `len_pen`, which NeMo never reads, is not read."""
    if not isinstance(decoding, Mapping):
        return {"max_generation_delta": -1}
    strategy = decoding.get("strategy", "beam")
    part = decoding.get("beam" if strategy == "beam" else "greedy")
    part = part if isinstance(part, Mapping) else {}
    if part.get("temperature") is not None:
        raise ConfigError("decoding.greedy.temperature is not supported; give a temperature when generating")
    return {
        "beam": int(part.get("beam_size", 1)) if strategy == "beam" else 1,
        "length_penalty": float(part.get("length_penalty", 0.0)) if strategy == "beam" else 0.0,
        "max_generation_delta": int(part.get("max_generation_delta", -1)),
    }


FAMILY = NemoFamily(
    "canary",
    config_from_nemo,
    config_to_nemo,
    assets_from_nemo,
    files_to_nemo,
    companions={"timestamps_asr_model": "aligner"},
)
