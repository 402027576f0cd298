"""The training of speech recognisers from one configuration; see `common.training.run` for what it writes.

Beside those files `tokenizer/` appears below `output` where a tokenizer was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.finetune import adapt, take_parts, trainable_parts
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.asr.task import SpeechTask, task_class
from aronnax.collections.asr.vocabulary import (
    TokenizerSection,
    check_texts,
    choose_tokenizer,
    with_tokenizer,
)
from aronnax.collections.common.training.run import Prepared, RunConfig, Say, TrainResult, run
from aronnax.core.config import from_dict, load_mapping
from aronnax.core.errors import ConfigError
from aronnax.core.registry import model_class

if TYPE_CHECKING:
    from lhotse.cut import Cut

__all__ = ["TrainConfig", "TrainResult", "build_model", "load_config", "train"]


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The top keys of the YAML of a recogniser."""

    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `data.train=x.jsonl`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included, naming the
    nearest one that exists.
    """
    config = from_dict(TrainConfig, load_mapping(path, overrides), where="config")
    if not isinstance(config.init_from, str):
        _fresh_config(config, vocab_size=1)
    return config


def train(
    config: TrainConfig,
    say: Callable[[str], None] = print,
    *,
    train_cuts: Iterable[Cut] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> TrainResult:
    """Trains, or goes on with, the run the configuration describes; `say` gets a few lines for the user.

    `train_cuts` and `validation_cuts` (sets by name) are used instead of the inputs of `config.data`; see
    `SpeechDataModule`. The sample rate is the model's, whatever `config.data` says.
    """
    if train_cuts is None and not config.data.inputs:
        raise ConfigError("data.train is empty: name a manifest, Lhotse cuts, or a list of inputs")

    def make(resuming: bool, say: Say) -> Prepared:
        return prepare(config, resuming, say, train_cuts=train_cuts, validation_cuts=validation_cuts)

    return run(config, make, say)


def prepare(
    config: TrainConfig,
    resuming: bool = False,
    say: Say = print,
    *,
    train_cuts: Iterable[Cut] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> Prepared:
    """The task and the data of the run the configuration describes."""
    if train_cuts is None:
        check_texts(config.data)
    model = build_model(config, Path(config.output), resuming=resuming, say=say)
    task_type = task_class(model.model_type)
    task_config = from_dict(task_type.Config, config.task, where="task")
    made: Any = task_type(model, config.optim, task_config, seed=config.trainer.seed)
    task: SpeechTask = made
    for part in trainable_parts(model):
        say(str(part))
    data = task.data(config.data, train=train_cuts, validation=validation_cuts)
    return Prepared(task, data, "speech recogniser")


def build_model(
    config: TrainConfig, output: Path, *, resuming: bool = False, say: Callable[[str], None] = print
) -> SpeechRecognizer:
    """The model a run starts from: fresh, or a checkpoint with its changes and vocabulary applied."""
    section = dict(config.model)
    kind = section.pop("type", None)
    start = config.init_from
    if not isinstance(start, str):
        if config.tokenizer.extends:
            raise ConfigError("tokenizer.add and add_count extend a checkpoint's tokenizer: set init_from")
        form = str(section.get("prompt_format", "canary2"))
        tokenizer = choose_tokenizer(
            config.tokenizer, config.data, output, resuming=resuming, prompt_format=form
        )
        made: Any = model_class(_type(kind))
        typed = _fresh_config(config, tokenizer.vocab_size)
        fresh: SpeechRecognizer = made(typed, tokenizer)
        if start and not resuming:
            for line in take_parts(fresh, start):
                say(line)
        return fresh
    from aronnax.core.loading import load

    loaded = load(start, device="cpu")
    if not isinstance(loaded, SpeechRecognizer):
        raise ConfigError(f"init_from: {start} is not a speech recogniser")
    adapted = adapt(loaded, section, kind)
    return with_tokenizer(adapted, config.tokenizer, config.data, output, resuming=resuming, say=say)


def _type(kind: str | None) -> str:
    if kind is None:
        raise ConfigError("model.type is required without init_from: ctc, transducer, hybrid or canary")
    task_class(kind)
    return kind


def _fresh_config(config: TrainConfig, vocab_size: int) -> Any:
    """The typed model config of a run from scratch; checks the task's section on the way."""
    section = dict(config.model)
    kind = _type(section.pop("type", None))
    if "vocab_size" in section:
        raise ConfigError("model.vocab_size comes from the tokenizer; leave it out")
    bands = section.get("preprocessor", {}).get("n_mels")
    if bands is not None:
        section["encoder"] = {"feat_in": bands, **section.get("encoder", {})}
    from_dict(task_class(kind).Config, config.task, where="task")
    return from_dict(model_class(kind).Config, {**section, "vocab_size": vocab_size}, where="model")
