"""What the training of every speech recogniser shares: losses by head, word errors by head, frozen parts.

Imported only to train. Shapes: B batch, S samples, T frames, U tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.finetune import freeze
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.metrics import ErrorCounts, score_utterance
from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task

_TASKS = {
    "ctc": ("aronnax.collections.asr.ctc.task", "CTCTask"),
    "transducer": ("aronnax.collections.asr.transducer.task", "TransducerTask"),
    "hybrid": ("aronnax.collections.asr.hybrid.task", "HybridTask"),
}


@dataclass(frozen=True)
class TaskConfig:
    """The `task` section every recogniser understands; a system's own config adds its losses' options."""

    freeze: tuple[str, ...] = ()
    """Parts that do not learn: dotted prefixes (`encoder`, `encoder.layers.0`) or patterns (`*.norm_*`)."""


class RecognitionTask(Task):
    """Trains a speech recogniser; validation reports the loss and the word error rate of each of its heads.

    `val/loss` is the trained loss, `val/<head>_loss` and `val/<head>_wer` belong to one head, and `val/wer`
    is that of the default head. All are exact over the set, however it was batched or split over processes.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    model: SpeechRecognizer

    def __init__(
        self, model: SpeechRecognizer, optim: OptimizerBuilder, config: TaskConfig, *, seed: int = 0
    ) -> None:
        if model.tokenizer is None:
            raise ConfigError("the model has no tokenizer, and training needs one: give a tokenizer section")
        super().__init__(model, optim, seed=seed)
        self.config = config
        freeze(model, config.freeze)
        self._losses: dict[str, float] = {}
        self._utterances = 0
        self._errors: dict[str, ErrorCounts] = {}

    @abstractmethod
    def head_losses(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """Mean loss of the batch for each head, by the head's name."""

    def weights(self) -> Mapping[str, float]:
        """What each head's loss counts for in the trained one."""
        return dict.fromkeys(self.model.heads, 1.0)

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """The weighted loss as `loss`, and each head's as `<head>_loss` where there are several."""
        output = self.model.encode(batch.signal, batch.signal_lengths)
        return self._weighted(self.head_losses(output, batch))

    def _weighted(self, by_head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = self.weights()
        total = torch.stack([weights[head] * loss for head, loss in by_head.items()]).sum()
        return {"loss": total, **{f"{head}_loss": loss for head, loss in by_head.items() if len(by_head) > 1}}

    def batch_size(self, batch: SpeechBatch) -> int:
        """The number of utterances."""
        return len(batch)

    def padding_share(self, batch: SpeechBatch) -> float | None:
        """The share of samples that are padding."""
        return batch.padding

    def transfer_batch_to_device(
        self, batch: SpeechBatch, device: torch.device, dataloader_idx: int
    ) -> SpeechBatch:
        """Moves the tensors of a batch."""
        return batch.to(device, non_blocking=True)

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero."""
        self._losses, self._utterances, self._errors = {}, 0, {}

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Adds the losses and word errors of one batch."""
        output = self.model.encode(batch.signal, batch.signal_lengths)
        by_head = self.head_losses(output, batch)
        named = {f"{head}_loss": loss for head, loss in by_head.items()}
        for name, value in {**self._weighted(by_head), **named}.items():
            self._losses[name] = self._losses.get(name, 0.0) + float(value) * len(batch)
        self._utterances += len(batch)
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        for head in self.model.heads:
            hypotheses, _ = self.model.decode(output.states, output.lengths, head=head, confidence=None)
            for text, hypothesis in zip(batch.texts, hypotheses):
                errors = score_utterance(text, tokenizer.decode(hypothesis.tokens)).words
                self._errors[head] = self._errors.get(head, ErrorCounts()) + errors

    def on_validation_epoch_end(self) -> None:
        """Logs the means over the whole set, summed over all processes."""
        names = ["loss", *(f"{head}_loss" for head in self.model.heads)]
        errors = [self._errors.get(head, ErrorCounts()) for head in self.model.heads]
        counts = [self._utterances, *(self._losses.get(name, 0.0) for name in names)]
        for error in errors:
            counts += [error.length, error.insertions, error.deletions, error.substitutions]
        totals = torch.tensor(counts, dtype=torch.float64)
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()
        utterances, *sums = totals.tolist()
        for name, value in zip(names, sums):
            self.log(f"val/{name}", value / max(1.0, utterances))
        for index, head in enumerate(self.model.heads):
            counted = ErrorCounts(*(int(n) for n in sums[len(names) + 4 * index :][:4]))
            self._errors[head] = counted
            self.log(f"val/{head}_wer", counted.rate)
            if index == 0:
                self.log("val/wer", counted.rate, prog_bar=True)

    @property
    def errors(self) -> dict[str, ErrorCounts]:
        """Word errors of the last validation, by head, over all processes."""
        return dict(self._errors)


def task_class(model_type: str) -> type[RecognitionTask]:
    """The task that trains models of that type."""
    if model_type not in _TASKS:
        raise ConfigError(f"model.type is {model_type!r}; {nearest(model_type, _TASKS)}")
    module, name = _TASKS[model_type]
    found: type[RecognitionTask] = getattr(import_module(module), name)
    return found


def make_task(
    model: SpeechRecognizer, optim: OptimizerBuilder, config: TaskConfig | None = None, *, seed: int = 0
) -> RecognitionTask:
    """The task for a model, whatever its type; `config` None means that task's defaults."""
    cls = task_class(model.model_type)
    made: Any = cls(model, optim, config if config is not None else cls.Config(), seed=seed)
    task: RecognitionTask = made
    return task
