"""The training of speech language models from one configuration; see `common.training.run` for what it writes.

    init_from: {llm: Qwen/Qwen3-1.7B, perception: nvidia/canary-1b-flash}

names a language model (a folder or hub id of transformers, or a checkpoint of aronnax) and any checkpoint with an
encoder; their configurations are taken with their weights, and `model` holds what is changed or new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, Say, TrainResult, run
from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.speechlm.conversation.data import ConversationConfig
from aronnax.collections.speechlm.model import SpeechLM
from aronnax.core.config import from_dict, load_mapping, nearest, to_dict
from aronnax.core.errors import ConfigError
from aronnax.core.registry import model_class

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from aronnax.collections.speechlm.task import SpeechLMTaskConfig

__all__ = ["TrainConfig", "TrainResult", "build_model", "load_config", "prepare", "train"]

_SOME = BackboneConfig("llama")
"""Stands for the language model while the other options are checked."""
PARTS = ("llm", "perception")
"""What `init_from` may name."""
_FRONT = ("preprocessor", "encoder", "spec_augment")
# An adapter's Conformer is small unless the YAML says otherwise; the encoder's defaults are the encoder's.
_ADAPTER = {"n_layers": 2, "subsampling_factor": 1}


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The top keys of the YAML of a speech language model."""

    conversation: ConversationConfig = field(default_factory=ConversationConfig)
    """How recordings with transcripts become conversations."""
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(monitor="val/loss"))


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `data.train=x.jsonl`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included.
    """
    mapping = load_mapping(path, overrides)
    trainer = mapping.get("trainer") or {}
    if isinstance(trainer, Mapping):
        mapping = {**mapping, "trainer": {"monitor": "val/loss", **trainer}}
    config = from_dict(TrainConfig, mapping, where="config")
    _task_config(config)
    if isinstance(config.init_from, str):
        return config
    _checked_parts(config.init_from)
    section = dict(config.model)
    kind = _type(section.pop("type", None))
    from_dict(model_class(kind).Config, _completed({"backbone": _SOME, **section}), "model")
    return config


def train(
    config: TrainConfig,
    say: Callable[[str], None] = print,
    *,
    train_cuts: Iterable[Cut] | Mapping[str, Iterable[Cut]] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> TrainResult:
    """Trains, or goes on with, the run the configuration describes; `say` gets a few lines for the user.

    `train_cuts` and `validation_cuts` (sets by name) are used instead of the inputs of `config.data`.
    """
    if train_cuts is None and not config.data.inputs:
        raise ConfigError("data.train is empty: name conversations or a manifest, or give data.streams")

    def make(resuming: bool, say: Say) -> Prepared:
        return prepare(config, resuming, say, train_cuts=train_cuts, validation_cuts=validation_cuts)

    return run(config, make, say)


def prepare(
    config: TrainConfig,
    resuming: bool = False,
    say: Say = print,
    *,
    train_cuts: Iterable[Cut] | Mapping[str, Iterable[Cut]] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> Prepared:
    """The task and the data of the run the configuration describes."""
    from aronnax.collections.asr.finetune import trainable_parts
    from aronnax.collections.speechlm.conversation.sources import check_first_lines
    from aronnax.collections.speechlm.task import SpeechLMTask

    if train_cuts is None:
        check_first_lines(config.data.inputs)
    if validation_cuts is None:
        check_first_lines(item for inputs in config.data.validation.values() for item in inputs)
    model = build_model(config, say=say)
    task = SpeechLMTask(model, config.optim, _task_config(config), seed=config.trainer.seed)
    for part in trainable_parts(model):
        say(str(part))
    data = task.data(config.data, config.conversation, train=train_cuts, validation=validation_cuts)
    return Prepared(task, data, "speech language model")


def build_model(config: TrainConfig, *, say: Callable[[str], None] = print) -> SpeechLM:
    """The model a run starts from: a checkpoint with its changes, or a language model given ears."""
    section = dict(config.model)
    kind = section.pop("type", None)
    if isinstance(config.init_from, str):
        return _changed(config.init_from, section, kind)
    parts = _checked_parts(config.init_from)
    if "backbone" in section:
        raise ConfigError("model.backbone comes from init_from.llm; leave it out")
    cls = model_class(_type(kind))
    llm, files = _language_model(parts["llm"], say)
    section["backbone"] = to_dict(llm.config)
    ears = None
    if "perception" in parts:
        from aronnax.core.loading import load

        ears = load(parts["perception"], device="cpu")
        section["perception"] = _merged(_front_end(ears, parts["perception"]), section.get("perception"))
    typed: Any = from_dict(cls.Config, _completed(section), "model")
    tokenizer = ChatTokenizer.from_assets(
        files, prompt_format=typed.prompt_format, audio_token=typed.audio_token
    )
    model = cast(SpeechLM, cast(Any, cls)(typed, tokenizer, llm))
    if ears is not None:
        say(_take_ears(model, ears, parts["perception"]))
    return model


def _language_model(name: str, say: Say) -> tuple[Backbone, dict[str, bytes]]:
    """The backbone of that name in float32, and its tokenizer's files."""
    from aronnax.core import checkpoint, hub

    path = hub.resolve(name)
    if checkpoint.is_checkpoint(path):
        from aronnax.core.loading import load

        loaded: Any = load(name, device="cpu")
        if not isinstance(getattr(loaded, "llm", None), Backbone):
            raise ConfigError(
                f"init_from.llm: {name} is a {loaded.model_type} model, which is no language model"
            )
        found, files = loaded.llm, loaded.assets()
    else:
        found, files = Backbone.from_pretrained(path, dtype=torch.float32)
    parameters = sum(parameter.numel() for parameter in found.parameters())
    say(f"llm: a {found.config.architecture} of {parameters:,} parameters taken from {name}")
    return found, files


def _front_end(ears: Any, name: str) -> dict[str, Any]:
    """The front end and encoder of a model, as plain data."""
    config = getattr(ears.config, "perception", ears.config)
    if not all(hasattr(config, part) for part in _FRONT[:2]):
        raise ConfigError(
            f"init_from.perception: {name} is a {ears.model_type} model, which has no speech encoder"
        )
    return {part: to_dict(getattr(config, part)) for part in _FRONT if hasattr(config, part)}


def _take_ears(model: SpeechLM, ears: Any, name: str) -> str:
    """Copies front end and encoder, and what else of the ears fits where the other is a speech language model."""
    theirs = getattr(ears, "perception", ears).state_dict()
    own = model.perception.state_dict()
    taken, values = 0, 0
    for key, tensor in own.items():
        part = key.split(".")[0]
        fits = key in theirs and theirs[key].shape == tensor.shape
        if part in ("preprocessor", "encoder") and not fits:
            has = f"has {list(theirs[key].shape)}" if key in theirs else "does not have it"
            raise ConfigError(
                f"init_from.perception: {key} is {list(tensor.shape)} here, and {name} {has}; leave the options of "
                "model.perception that shape it as they are"
            )
        if fits and (part in ("preprocessor", "encoder") or hasattr(ears, "perception")):
            tensor.copy_(theirs[key])
            taken, values = taken + 1, values + tensor.numel()
    return f"perception: {values:,} values in {taken} tensors taken from {name}"


def _changed(name: str, section: Mapping[str, Any], kind: str | None) -> SpeechLM:
    """A checkpoint with some options changed, low-rank layers among them; every weight it has is kept."""
    from aronnax.core.loading import load

    loaded = load(name, device="cpu")
    if not isinstance(loaded, SpeechLM):
        raise ConfigError(f"init_from: {name} is not a speech language model")
    if kind not in (None, loaded.model_type):
        raise ConfigError(f"model.type is {kind!r}, but {name} is a {loaded.model_type} model")
    if not section:
        return loaded
    config: Any = from_dict(type(loaded).Config, _merged(to_dict(loaded.config), section), "model")
    if loaded.config.lora is not None and config.lora != loaded.config.lora:
        raise ConfigError(f"model.lora: {name} has low-rank layers of its own; leave the section out")
    changed = type(loaded)(config, _tokenizer(loaded, config))
    state = {
        (_adapted(changed, key) if config.lora is not None else key): tensor
        for key, tensor in loaded.state_dict().items()
    }
    try:
        found = changed.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"model: with these options the weights of {name} do not fit: {error}") from None
    new = [key for key in found.missing_keys if ".lora_" not in key]
    if new or found.unexpected_keys:
        raise ConfigError(
            f"model: with these options {[*new, *found.unexpected_keys][0]} would have no counterpart"
        )
    changed.source = loaded.source
    return changed


def _adapted(model: SpeechLM, key: str) -> str:
    from aronnax.collections.llm.lora.attaching import adapted_name

    if not key.startswith("llm."):
        return key
    return "llm." + adapted_name(model.llm, key.removeprefix("llm."))


def _tokenizer(model: SpeechLM, config: Any) -> ChatTokenizer | None:
    if model.tokenizer is None:
        return None
    return ChatTokenizer.from_assets(
        model.assets(), prompt_format=config.prompt_format, audio_token=config.audio_token
    )


def _completed(section: Mapping[str, Any]) -> dict[str, Any]:
    """A model's section whose encoder fits its front end, and whose adapter is small unless it says otherwise."""
    perception = dict(section.get("perception") or {})
    bands = (perception.get("preprocessor") or {}).get("n_mels")
    if bands is not None:
        perception["encoder"] = {"feat_in": bands, **(perception.get("encoder") or {})}
    adapter = perception.get("adapter")
    if isinstance(adapter, Mapping) and isinstance(adapter.get("conformer"), Mapping):
        perception["adapter"] = {**adapter, "conformer": {**_ADAPTER, **adapter["conformer"]}}
    return {**section, "perception": perception}


def _merged(base: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    merged = dict(base)
    for key, value in (changes or {}).items():
        old = merged.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(cast(Any, old), value) if nested else value
    return merged


def _checked_parts(parts: Any) -> Mapping[str, str]:
    if not isinstance(parts, Mapping) or "llm" not in parts:
        raise ConfigError(
            "init_from.llm is missing: a speech language model starts from a language model, a folder or hub id of "
            "transformers or a checkpoint such as digits-lm"
        )
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"init_from.{part} is not a part; {nearest(part, PARTS)}")
    return parts


def _type(kind: str | None) -> str:
    if kind is None:
        raise ConfigError("model.type is required where init_from names parts: salm or bestow")
    if not issubclass(model_class(kind), SpeechLM):
        raise ConfigError(f"model.type is {kind!r}, which is no speech language model")
    return kind


def _task_config(config: TrainConfig) -> SpeechLMTaskConfig:
    from aronnax.collections.speechlm.task import SpeechLMTaskConfig

    return from_dict(SpeechLMTaskConfig, config.task, where="task")
