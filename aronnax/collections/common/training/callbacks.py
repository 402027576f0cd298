"""What is watched while training: time spent waiting for data, padding, and progress in plain lines."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Shares(Callback):
    """Logs `train/data_wait` (share of wall time) and `train/padding` (share of batches that is padding).

    Both come from the `stats` of the data module, and are those since the last logging; with other data there
    is nothing to log. A task that computes other rows than the data have (`logs_padding`) says itself how much of
    them is padding.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs both shares at the logging interval."""
        stats = _stats(trainer)
        if stats is None or (batch_idx + 1) % self.every:
            return
        pl_module.log("train/data_wait", stats.wait, prog_bar=True)
        if not getattr(pl_module, "logs_padding", False):
            pl_module.log("train/padding", stats.padding, prog_bar=True)
        stats.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the time of a validation out of the shares."""
        stats = _stats(trainer)
        if stats is not None:
            stats.reset()


def _stats(trainer: Trainer) -> Any:
    return getattr(getattr(trainer, "datamodule", None), "stats", None)


class Lines(Callback):
    """One line of progress every so many steps, for where no bar can be drawn (a log file, a job queue)."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints the numbers a progress bar would show."""
        step = trainer.global_step
        if not trainer.is_global_zero or step % self.every or trainer.fit_loop._should_accumulate():
            return
        shown = {name.removeprefix("train/"): value for name, value in trainer.progress_bar_metrics.items()}
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in shown.items() if name != "v_num")
        print(f"step {step}/{trainer.max_steps}  {numbers}", file=sys.stderr, flush=True)
