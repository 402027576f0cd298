"""The training of language models from one configuration; see `common.training.run` for what it writes.

    init_from: Qwen/Qwen3-0.6B          # or a folder, or a checkpoint of aronnax
    model: {lora: {rank: 16}}           # LoRA layers alone learn; without them, everything does

A model trained with LoRA is stored as its low-rank layers beside a reference to `init_from`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, Say, TrainResult, run
from aronnax.collections.llm.chat.tokenizer import FILES, ChatTokenizer
from aronnax.collections.llm.data import TextData, TextDataConfig, check_first_lines
from aronnax.collections.llm.model import LanguageModel, LanguageModelConfig
from aronnax.core.config import from_dict, load_mapping, to_dict
from aronnax.core.errors import ConfigError

__all__ = ["TrainConfig", "TrainResult", "build_model", "load_config", "train"]


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The top keys of the YAML of a language model."""

    data: TextDataConfig  # type: ignore[assignment]
    tokenizer: str | None = None
    """Folder with a tokenizer.json, for a model from scratch; one that starts from a checkpoint has its own."""
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(monitor="val/loss"))


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `data.batch_tokens=1024`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included.
    """
    from aronnax.collections.llm.task import LanguageModelTaskConfig

    mapping = load_mapping(path, overrides)
    trainer = mapping.get("trainer")
    if trainer is None or isinstance(trainer, dict):
        mapping = {**mapping, "trainer": {"monitor": "val/loss", **(trainer or {})}}
    config = from_dict(TrainConfig, mapping, where="config")
    from_dict(LanguageModelTaskConfig, config.task, where="task")
    if config.init_from is None:
        _fresh_config(config)
    return config


def train(config: TrainConfig, say: Callable[[str], None] = print) -> TrainResult:
    """Trains, or goes on with, the run the configuration describes; `say` gets a few lines for the user."""
    if not config.data.train:
        raise ConfigError("data.train is empty: name files of conversations")
    return run(config, lambda resuming, say: prepare(config, say), say)


def prepare(config: TrainConfig, say: Say = print) -> Prepared:
    """The task and the data of the run the configuration describes."""
    from aronnax.collections.llm.task import LanguageModelTask, LanguageModelTaskConfig

    check_first_lines(config.data)
    model = build_model(config)
    if config.data.pack and model.llm.unpackable:
        raise ConfigError(f"data.pack: {model.llm.unpackable}; set it to false")
    options = from_dict(LanguageModelTaskConfig, config.task, where="task")
    task = LanguageModelTask(model, config.optim, options, seed=config.trainer.seed)
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(f"{learning:,} of {model.num_parameters():,} parameters learn")
    data: Any = TextData(config.data, model.text, model.context)
    return Prepared(task, data, "language model")


def build_model(config: TrainConfig) -> LanguageModel:
    """The model a run starts from: fresh, or a checkpoint with its changes."""
    if config.init_from is None:
        typed = _fresh_config(config)
        if config.tokenizer is None:
            raise ConfigError("tokenizer is required without init_from: a folder with a tokenizer.json")
        return LanguageModel.build(typed, _tokenizer_files(config.tokenizer))
    if not isinstance(config.init_from, str):
        raise ConfigError("init_from must name one language model")
    from aronnax.core.loading import load

    loaded = load(config.init_from, device="cpu")
    if not isinstance(loaded, LanguageModel):
        raise ConfigError(f"init_from: {config.init_from} is a {loaded.model_type}, not a language model")
    return _changed(loaded, config.init_from, config)


def _changed(loaded: LanguageModel, start: str, config: TrainConfig) -> LanguageModel:
    """The loaded model with the options of `model` in the YAML."""
    section = dict(config.model)
    section.pop("type", None)
    if "backbone" in section:
        raise ConfigError("model.backbone comes from init_from; leave it out")
    if section.get("lora") and loaded.config.lora is None:
        section.setdefault("references", {"llm.": start})
    elif "lora" in section:
        raise ConfigError(
            f"model.lora: {start} has LoRA layers already, which learn on; leave it out, or merge them first"
        )
    typed = from_dict(LanguageModelConfig, {**to_dict(loaded.config), **section}, "model")
    tokenizer = ChatTokenizer.from_assets(
        loaded.assets(), prompt_format=typed.prompt_format, audio_token=typed.audio_token
    )
    model = LanguageModel(typed, tokenizer, loaded.llm)
    if loaded.config.lora is not None:
        _only_lora_learns(model)
    return model


def _only_lora_learns(model: LanguageModel) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _fresh_config(config: TrainConfig) -> LanguageModelConfig:
    section = dict(config.model)
    kind = section.pop("type", None)
    if kind != "causal_lm":
        raise ConfigError(f"model.type is {kind!r}; a language model's is causal_lm")
    if "backbone" not in section:
        raise ConfigError("model.backbone is required without init_from: its architecture and settings")
    return from_dict(LanguageModelConfig, section, where="model")


def _tokenizer_files(folder: str) -> dict[str, bytes]:
    place = Path(folder).expanduser()
    files = {name: (place / name).read_bytes() for name in FILES if (place / name).is_file()}
    if "tokenizer.json" not in files:
        raise ConfigError(
            f"tokenizer: {folder} has no tokenizer.json: name the folder of a language model or of its tokenizer"
        )
    return files
