"""What is watched while training: time spent waiting for data, padding, and progress in plain lines."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

FETCHING = "[_TrainingEpochLoop].train_dataloader_next"


class DataWait(Profiler):
    """Measures how long the training loop waits for its next batch; everything else passes unmeasured."""

    def __init__(self) -> None:
        super().__init__(dirpath=None, filename=None)
        self.waited = 0.0
        """Seconds waited since `take` was last called."""
        self._since: float | None = None

    def start(self, action_name: str) -> None:
        """Starts the clock when a batch is being fetched."""
        if action_name == FETCHING:
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stops the clock when the batch has come."""
        if action_name == FETCHING and self._since is not None:
            self.waited += time.perf_counter() - self._since
            self._since = None

    def take(self) -> float:
        """Returns the seconds waited since the last call."""
        waited, self.waited = self.waited, 0.0
        return waited


class Shares(Callback):
    """Logs `train/data_wait` (share of wall time) and `train/padding` (share of batches that is padding)."""

    def __init__(self, wait: DataWait, every: int) -> None:
        self.wait = wait
        self.every = every
        self._since = time.perf_counter()
        self._padding: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()
        self.wait.take()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up the batch's padding and logs both shares at the logging interval."""
        padding = pl_module.padding_share(batch)
        if padding is not None:
            self._padding.append(padding)
        if (batch_idx + 1) % self.every:
            return
        now = time.perf_counter()
        size = pl_module.batch_size(batch)
        share = min(1.0, self.wait.take() / max(now - self._since, 1e-9))
        self._since = now
        pl_module.log("train/data_wait", share, prog_bar=True, batch_size=size)
        if self._padding:
            mean = sum(self._padding) / len(self._padding)
            pl_module.log("train/padding", mean, prog_bar=True, batch_size=size)
            self._padding.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the time of a validation out of the shares."""
        self._since = time.perf_counter()
        self.wait.take()


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
