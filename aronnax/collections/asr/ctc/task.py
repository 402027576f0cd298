"""Training of CTC models."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.ctc.loss import losses
from aronnax.collections.asr.ctc.model import CTCModel
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.task import RecognitionTask, TaskConfig


class CTCTask(RecognitionTask):
    """Minimises the CTC loss, the mean over utterances."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    model: CTCModel

    def head_losses(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """The CTC loss of encoder states."""
        return losses(self.model, output, batch)
