"""Training of transducers: RNN-T, and TDT when the model has durations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.task import RecognitionTask, TaskConfig
from aronnax.collections.asr.transducer.loss import losses
from aronnax.collections.asr.transducer.model import TransducerModel


@dataclass(frozen=True)
class TransducerTaskConfig(TaskConfig):
    """The `task` section of a transducer."""

    fastemit: float = 0.0
    """Weight of FastEmit, which asks for earlier tokens; 0 is off, 0.001 to 0.01 is usual."""
    sigma: float = 0.02
    """TDT only: under-normalisation of the logits, which favours long durations."""
    omega: float = 0.1
    """TDT only: probability of training a batch with the RNN-T loss instead, for robust tokens."""


class TransducerTask(RecognitionTask):
    """Minimises the transducer loss; the joint and the loss are fused, so the lattice is never in memory."""

    Config: ClassVar[type[TaskConfig]] = TransducerTaskConfig
    model: TransducerModel
    config: TransducerTaskConfig

    def head_losses(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """The transducer loss of encoder states; validation always measures the head's own loss."""
        options = self.loss_options()
        return losses(
            self.model,
            output,
            batch,
            fastemit=options.fastemit,
            sigma=options.sigma,
            omega=options.omega,
        )

    def loss_options(self) -> TransducerTaskConfig:
        """The options of the loss: TDT's are off for RNN-T, and all are off in validation."""
        if not self.training:
            return TransducerTaskConfig(fastemit=0.0, sigma=0.0, omega=0.0)
        if not self.model.config.durations:
            return TransducerTaskConfig(fastemit=self.config.fastemit, sigma=0.0, omega=0.0)
        return self.config
