"""Training of hybrids: a transducer and a CTC head on one encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.hybrid.loss import losses
from aronnax.collections.asr.hybrid.model import HybridModel
from aronnax.collections.asr.task import TaskConfig
from aronnax.collections.asr.transducer.task import TransducerTask, TransducerTaskConfig
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class HybridTaskConfig(TransducerTaskConfig):
    """The `task` section of a hybrid."""

    ctc_weight: float | None = None
    """Share of the CTC loss, 0 to 1; None takes the model's own `ctc_weight`."""

    def __post_init__(self) -> None:
        if self.ctc_weight is not None and not 0 <= self.ctc_weight <= 1:
            raise ConfigError(f"task.ctc_weight is {self.ctc_weight}; it lies between 0 and 1")


class HybridTask(TransducerTask):
    """Minimises (1 - w) times the transducer loss plus w times the CTC loss."""

    Config: ClassVar[type[TaskConfig]] = HybridTaskConfig
    model: HybridModel
    config: HybridTaskConfig

    def head_losses(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """The losses of both heads on the same encoder states."""
        options = self.loss_options()
        return losses(
            self.model,
            output,
            batch,
            fastemit=options.fastemit,
            sigma=options.sigma,
            omega=options.omega,
        )

    def weights(self) -> Mapping[str, float]:
        """The shares of the two losses."""
        share = self.config.ctc_weight if self.config.ctc_weight is not None else self.model.config.ctc_weight
        transducer, ctc = self.model.heads
        return {transducer: 1.0 - share, ctc: share}
