"""What a run saves: the state a killed run goes on from, and the best weights so far."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Last(Callback):
    """Saves the whole training state every so many steps and after the last one, always into the same file.

    One process that is asked to end (SIGTERM, Ctrl-C) saves once more; several would have to agree on it.
    The file is written beside its place and renamed, so a kill at any moment leaves a whole checkpoint.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.saved: int | None = None
        """The last step that is in the file."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Knows what a resumed run has behind it."""
        self.saved = trainer.global_step or None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time; never between the batches of one accumulated step."""
        step = trainer.global_step
        ending = trainer.received_sigterm and trainer.world_size == 1
        due = ending or step % self.every == 0 or step == trainer.max_steps
        if trainer.fit_loop._should_accumulate() or not due:
            return
        part = self.path.with_name(self.path.name + ".part")
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            os.replace(part, self.path)
        self.saved = step


class Best(Callback):
    """Keeps the checkpoint folder of the validation with the lowest value of one metric."""

    def __init__(self, folder: Path, monitor: str) -> None:
        self.folder = folder
        self.monitor = monitor
        self.lowest = float("inf")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Saves the model if it is the best of this run's training so far."""
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.state.fn != "fit" or value is None or float(value) >= self.lowest:
            return
        self.lowest = float(value)
        model = pl_module.whole_model()
        if trainer.is_global_zero:
            card = f"Step {trainer.global_step}: {self.monitor} {self.lowest:.4f}, the lowest so far.\n"
            model.save_pretrained(self.folder, card=card)

    def state_dict(self) -> dict[str, Any]:
        """The lowest value so far."""
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the lowest value of the run that is resumed."""
        self.lowest = float(state_dict["lowest"])
