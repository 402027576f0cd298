"""A whole training from one configuration, whatever the system: `aronnax train` runs this.

A collection says what it trains in its own `training` module (named in `core.registry`), which holds
`load_config(path, overrides)` and `train(config)`; the latter hands `run` a function that prepares the task and
its data. Written below `output`: `last.ckpt` (from which a killed run goes on), `model/` (the final checkpoint
folder), `best/` (the one with the lowest `trainer.monitor`), `scores.json` (before and after on the same set),
`train.yaml` (the configuration in full) and `logs/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax import __version__
from aronnax.collections.common.data.config import DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.core.config import load_mapping, to_dict, to_yaml
from aronnax.core.errors import ConfigError
from aronnax.core.model import Model

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from aronnax.collections.common.data import SpeechDataModule
    from aronnax.core.task import Task

RECORD = "train.yaml"
SCORES = "scores.json"
# Below so many parameters, threads cost more than they give.
_TINY = 5_000_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunConfig:
    """Everything a training is made of; the top keys of the YAML. A collection adds its own sections."""

    data: DataConfig
    output: str
    """Folder of everything the run writes; the same command on the same folder goes on where it stopped."""
    model: dict[str, Any] = field(default_factory=dict)
    """`type` and the options of that model; with `init_from`, the changed ones."""
    init_from: str | dict[str, str] | None = None
    """Any loadable checkpoint to fine-tune: a bundled name, a folder, a .nemo file, a hub id. Or parts of a new
    model and the checkpoints they start from, such as `{encoder: digits}`."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    task: dict[str, Any] = field(default_factory=dict)
    """Options of the model's task: frozen parts, and its losses' own."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; `before` and `after` hold the validation's losses and rates by name."""

    before: dict[str, float]
    after: dict[str, float]
    model: Any
    folder: Path
    """The final checkpoint folder, for `aronnax.load`."""


@dataclass(frozen=True)
class Prepared:
    """What a system trains and on what."""

    task: Task
    data: SpeechDataModule
    noun: str = "model"
    """What the model card calls it."""


def run(config: RunConfig, prepare: Callable[[bool, Say], Prepared], say: Say = print) -> TrainResult:
    """Trains, or goes on with, the run the configuration describes; `say` gets a few lines for the user.

    `prepare` is told whether an earlier run is resumed, whose weights will replace the model's. Raises ConfigError
    when the output folder holds the run of another model, and SystemExit with 143 or 130 when the process is asked to
    end by SIGTERM or Ctrl-C.
    """
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from aronnax.collections.common.training.stopping import stoppable
    from aronnax.collections.common.training.trainer import build_trainer, checkpoint_to_resume

    say = rank_zero_only(say)
    config.optim.check(config.trainer.max_steps)
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output {output} is a file; name a folder")
    output.mkdir(parents=True, exist_ok=True)
    resume = checkpoint_to_resume(config.trainer, output)
    if resume is not None:
        _check_same_run(config, output)
    seed_everything(config.trainer.seed, verbose=False)
    prepared = prepare(resume is not None, say)
    settings = config.trainer
    if not prepared.data.validation_names:
        settings = replace(settings, val_batches=0)
        say("there is no validation set: nothing is scored, and the last weights are kept, not the best")
    trainer = build_trainer(settings, output, to_dict(config))
    _spare_threads(prepared.task.model, trainer, say)
    if trainer.is_global_zero:
        (output / RECORD).write_text(to_yaml(config), encoding="utf-8")
    with stoppable(trainer, say, resume):
        return _fit(config, prepared, trainer, resume, say)


def _spare_threads(model: Model, trainer: Trainer, say: Say) -> None:
    """Use one thread where a CPU trains a tiny model, unless OMP_NUM_THREADS says otherwise."""
    import torch

    tiny = model.num_parameters() < _TINY and trainer.strategy.root_device.type == "cpu"
    if tiny and "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        say("using one thread: so small a model trains faster without handing work between threads")


def system_of(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> str | None:
    """The model type a training YAML is about: `model.type`, else that of the checkpoint in `init_from`."""
    mapping = load_mapping(path, overrides)
    section, start = mapping.get("model"), mapping.get("init_from")
    kind = section.get("type") if isinstance(section, Mapping) else None
    if kind is None and isinstance(start, str):
        from aronnax.core.hub import resolve
        from aronnax.core.loading import open_parts

        return open_parts(resolve(start)).model_type
    return None if kind is None else str(kind)


def _fit(
    config: RunConfig, prepared: Prepared, trainer: Trainer, resume: Path | None, say: Say
) -> TrainResult:
    task, data, output = prepared.task, prepared.data, Path(config.output)
    if resume is None:
        before = _validate(trainer, task, data)
        _write_scores(trainer, output, {"before": before})
        if before:
            say(f"before: {_rates(before)}")
    else:
        before = _read_scores(output)
        say(f"going on from {resume}")
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    after = _validate(trainer, task, data)
    _write_scores(trainer, output, {"before": before, "after": after})
    folder = output / "model"
    model = task.whole_model()
    if trainer.is_global_zero:
        model.save_pretrained(folder, card=_card(config, prepared, before, after))
    if after:
        say(f"before: {_rates(before)}")
        say(f"after:  {_rates(after)}")
    for line in task.summary():
        say(line)
    say(f"the model is in {folder}")
    return TrainResult(before, after, model.eval(), folder)


def _validate(trainer: Trainer, task: Task, data: SpeechDataModule) -> dict[str, float]:
    """Losses and rates on the validation sets by name; none without a set."""
    if not data.validation_names:
        return {}
    trainer.validate(task, datamodule=data, verbose=False)
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name.startswith("val/")}


def _rates(scores: Mapping[str, float]) -> str:
    """Losses and rates as the user reads them, `val/wer` left out where a head's name says the same."""
    shown = {name.removeprefix("val/"): value for name, value in scores.items()}
    if any(name.endswith("_wer") and name.count("/") == 0 for name in shown):
        shown.pop("wer", None)
    return ", ".join(
        f"{name} {100 * value:.2f} %" if _is_share(name) else f"{name} {value:.3f}"
        for name, value in shown.items()
    )


def _is_share(name: str) -> bool:
    return any(share in part.split("_") for part in name.split("/") for share in ("wer", "cer", "der"))


def _write_scores(trainer: Trainer, output: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    if trainer.is_global_zero:
        (output / SCORES).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _read_scores(output: Path) -> dict[str, float]:
    path = output / SCORES
    scores: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return scores.get("before", {})


def _check_same_run(config: RunConfig, output: Path) -> None:
    """Raises ConfigError when the folder holds the run of another model, whose weights could not be used."""
    record = output / RECORD
    if not record.is_file():
        return
    old, new = load_mapping(record), to_dict(config)
    for key in ("model", "tokenizer", "init_from"):
        if key in new and old.get(key) != new[key]:
            raise ConfigError(
                f"{output} holds a run whose {key} was {old.get(key)!r}, and this one's is {new[key]!r}: "
                "choose another output, or trainer.resume=never to start over"
            )


def _card(
    config: RunConfig, prepared: Prepared, before: Mapping[str, float], after: Mapping[str, float]
) -> str:
    """The model card of a finished run."""
    model: Model = prepared.task.model
    rows = [
        f"| {name} | {before[name]:.4f} | {value:.4f} |" if name in before else f"| {name} | | {value:.4f} |"
        for name, value in after.items()
    ]
    table = [
        "On the validation set, before and after:",
        "",
        "| | before | after |",
        "|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(
        [
            f"# A {model.model_type} {prepared.noun}",
            "",
            f"{_origin(config.init_from)} {model.num_parameters():,} parameters, "
            f"{config.trainer.max_steps} steps, trained with aronnax {__version__}.",
            "",
            *(table if rows else ()),
            "The whole configuration:",
            "",
            "```yaml",
            to_yaml(config).rstrip(),
            "```",
            "",
        ]
    )


def _origin(init_from: str | dict[str, str] | None) -> str:
    if isinstance(init_from, str):
        return f"Fine-tuned from `{init_from}`."
    parts = ", ".join(f"its {part} started from `{name}`" for part, name in (init_from or {}).items())
    return f"Trained from scratch; {parts}." if parts else "Trained from scratch."
