"""A whole training from one configuration: `aronnax train` and the example scripts run `train`.

Writes below `output`: `last.ckpt` (from which a killed run goes on), `model/` (the final checkpoint folder),
`best/` (the one with the lowest word error rate), `scores.json` (before and after on the same set),
`train.yaml` (the configuration in full), `tokenizer/` (where one was made) and `logs/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax import __version__
from aronnax.collections.asr.batch import speech_data
from aronnax.collections.asr.finetune import adapt, trainable_parts
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.asr.task import RecognitionTask, task_class
from aronnax.collections.asr.vocabulary import TokenizerSection, choose_tokenizer, with_tokenizer
from aronnax.collections.common.data import DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig
from aronnax.core.config import from_dict, load_mapping, to_dict, to_yaml
from aronnax.core.errors import ConfigError
from aronnax.core.registry import model_class

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from lightning.pytorch import Trainer

    from aronnax.collections.common.data import SpeechDataModule

RECORD = "train.yaml"
SCORES = "scores.json"


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training is made of; the top keys of the YAML."""

    data: DataConfig
    output: str
    """Folder of everything the run writes; the same command on the same folder goes on where it stopped."""
    model: dict[str, Any] = field(default_factory=dict)
    """`type` (ctc, transducer, hybrid) and the options of that model; with `init_from`, the changed ones."""
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    init_from: str | None = None
    """Any loadable checkpoint to fine-tune: a bundled name, a folder, a .nemo file, a hub id."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    task: dict[str, Any] = field(default_factory=dict)
    """Options of the model's task: frozen parts, and its losses' own."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; `before` and `after` hold the validation's losses and rates by name."""

    before: dict[str, float]
    after: dict[str, float]
    model: SpeechRecognizer
    folder: Path
    """The final checkpoint folder, for `aronnax.load`."""


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `data.train=x.jsonl`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included, naming the
    nearest one that exists.
    """
    config = from_dict(TrainConfig, load_mapping(path, overrides), where="config")
    if config.init_from is None:
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
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from aronnax.collections.common.training.trainer import build_trainer, checkpoint_to_resume

    say = rank_zero_only(say)
    if train_cuts is None and not config.data.train:
        raise ConfigError("data.train is empty: name a manifest, Lhotse cuts, or a list of inputs")
    config.optim.check(config.trainer.max_steps)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    resume = checkpoint_to_resume(config.trainer, output)
    if resume is not None:
        _check_same_run(config, output)
    seed_everything(config.trainer.seed, verbose=False)
    model = build_model(config, output, resuming=resume is not None, say=say)
    task_type = task_class(model.model_type)
    task_config = from_dict(task_type.Config, config.task, where="task")
    made: Any = task_type(model, config.optim, task_config, seed=config.trainer.seed)
    task: RecognitionTask = made
    for part in trainable_parts(model):
        say(str(part))
    assert model.tokenizer is not None, "the task has checked it"
    data = speech_data(
        replace(config.data, sample_rate=model.sample_rate),
        model.tokenizer,
        train=train_cuts,
        validation=validation_cuts,
    )
    trainer = build_trainer(config.trainer, output, to_dict(config))
    if trainer.is_global_zero:
        (output / RECORD).write_text(to_yaml(config), encoding="utf-8")
    return _run(config, task, data, trainer, resume, say)


def _run(
    config: TrainConfig,
    task: RecognitionTask,
    data: SpeechDataModule,
    trainer: Trainer,
    resume: Path | None,
    say: Callable[[str], None],
) -> TrainResult:
    output = Path(config.output)
    if resume is None:
        before = _validate(trainer, task, data)
        _write_scores(trainer, output, {"before": before})
        say(f"before: {_rates(before)}")
    else:
        before = _read_scores(output)
        say(f"going on from {resume}")
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    after = _validate(trainer, task, data)
    _write_scores(trainer, output, {"before": before, "after": after})
    folder = output / "model"
    if trainer.is_global_zero:
        task.model.save_pretrained(folder, card=_card(config, task.model, before, after))
    say(f"before: {_rates(before)}")
    say(f"after:  {_rates(after)}")
    for head, errors in task.errors.items():
        say(f"{head} WER {errors}")
    say(f"the model is in {folder}")
    return TrainResult(before, after, task.model.eval(), folder)


def _validate(trainer: Trainer, task: RecognitionTask, data: SpeechDataModule) -> dict[str, float]:
    """Losses and rates on the validation sets by name; none without a set."""
    if not data.validation_names:
        return {}
    trainer.validate(task, datamodule=data, verbose=False)
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name.startswith("val/")}


def _rates(scores: Mapping[str, float]) -> str:
    """Losses and rates as the user reads them, `val/wer` left out where a head's name says the same."""
    shown = {name.removeprefix("val/"): value for name, value in scores.items() if name != "val/wer"}
    return ", ".join(
        f"{name} {100 * value:.2f} %" if name.endswith("wer") else f"{name} {value:.3f}"
        for name, value in shown.items()
    )


def _write_scores(trainer: Trainer, output: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    if trainer.is_global_zero:
        (output / SCORES).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _read_scores(output: Path) -> dict[str, float]:
    path = output / SCORES
    scores: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return scores.get("before", {})


def _check_same_run(config: TrainConfig, output: Path) -> None:
    """Raises ConfigError when the folder holds the run of another model, whose weights could not be used."""
    record = output / RECORD
    if not record.is_file():
        return
    old, new = load_mapping(record), to_dict(config)
    for key in ("model", "tokenizer", "init_from"):
        if old.get(key) != new[key]:
            raise ConfigError(
                f"{output} holds a run whose {key} was {old.get(key)!r}, and this one's is {new[key]!r}: "
                "choose another output, or trainer.resume=never to start over"
            )


def _card(
    config: TrainConfig, model: SpeechRecognizer, before: Mapping[str, float], after: Mapping[str, float]
) -> str:
    """The model card of a finished run."""
    rows = [
        f"| {name} | {before[name]:.4f} | {value:.4f} |" if name in before else f"| {name} | | {value:.4f} |"
        for name, value in after.items()
    ]
    source = f"Fine-tuned from `{config.init_from}`." if config.init_from else "Trained from scratch."
    return "\n".join(
        [
            f"# A {model.model_type} speech recogniser",
            "",
            f"{source} {model.num_parameters():,} parameters, {config.trainer.max_steps} steps, "
            f"trained with aronnax {__version__}.",
            "",
            "On the validation set, before and after:",
            "",
            "| | before | after |",
            "|---|---|---|",
            *rows,
            "",
            "The whole configuration:",
            "",
            "```yaml",
            to_yaml(config).rstrip(),
            "```",
            "",
        ]
    )


def build_model(
    config: TrainConfig, output: Path, *, resuming: bool = False, say: Callable[[str], None] = print
) -> SpeechRecognizer:
    """The model a run starts from: fresh, or a checkpoint with its changes and vocabulary applied."""
    section = dict(config.model)
    kind = section.pop("type", None)
    if config.init_from is None:
        if config.tokenizer.extends:
            raise ConfigError("tokenizer.add and add_count extend a checkpoint's tokenizer: set init_from")
        tokenizer = choose_tokenizer(config.tokenizer, config.data, output, resuming=resuming)
        made: Any = model_class(_type(kind))
        typed = _fresh_config(config, tokenizer.vocab_size)
        fresh: SpeechRecognizer = made(typed, tokenizer)
        return fresh
    from aronnax.core.loading import load

    loaded = load(config.init_from, device="cpu")
    if not isinstance(loaded, SpeechRecognizer):
        raise ConfigError(f"init_from: {config.init_from} is not a speech recogniser")
    adapted = adapt(loaded, section, kind)
    return with_tokenizer(adapted, config.tokenizer, config.data, output, resuming=resuming, say=say)


def _type(kind: str | None) -> str:
    if kind is None:
        raise ConfigError("model.type is required without init_from: ctc, transducer or hybrid")
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
