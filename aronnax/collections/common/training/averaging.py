"""An exponential moving average of the weights, as Lightning keeps it."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Validates with the averaged weights, and keeps them in place until the best ones have been saved."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does nothing yet: Lightning would already bring the training weights back here."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the training weights back."""
        super().on_validation_epoch_end(trainer, pl_module)
