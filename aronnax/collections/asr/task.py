"""What the training of every speech recogniser shares: its data, frozen parts; losses and word errors by head.

Imported only to train. Shapes: B batch, S samples, T frames, U tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.batch import SpeechBatch, collate, speech_data
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.finetune import freeze
from aronnax.collections.asr.long_form.engine import SHORTEST_SECONDS
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.metrics import ErrorCounts, score_utterance
from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task

if TYPE_CHECKING:
    from aronnax.collections.common.data import DataConfig, SpeechDataModule

_TASKS = {
    "ctc": ("aronnax.collections.asr.ctc.task", "CTCTask"),
    "transducer": ("aronnax.collections.asr.transducer.task", "TransducerTask"),
    "hybrid": ("aronnax.collections.asr.hybrid.task", "HybridTask"),
    "canary": ("aronnax.collections.asr.canary.task", "CanaryTask"),
}


@dataclass(frozen=True)
class TaskConfig:
    """The `task` section every recogniser understands; a system's own config adds its losses' options."""

    freeze: tuple[str, ...] = ()
    """Parts that do not learn: dotted prefixes (`encoder`, `encoder.layers.0`) or patterns (`*.norm_*`)."""


@dataclass
class Tally:
    """Sums over a validation set, which add up over processes."""

    losses: dict[str, float]
    errors: dict[str, ErrorCounts]
    utterances: int = 0

    @classmethod
    def of(cls, heads: Sequence[str]) -> Tally:
        """Nothing counted yet."""
        names = ["loss", *(f"{head}_loss" for head in heads)]
        return cls(dict.fromkeys(names, 0.0), dict.fromkeys(heads, ErrorCounts()))

    def counts(self) -> list[float]:
        """All sums as one list."""
        sums = [float(self.utterances), *self.losses.values()]
        for error in self.errors.values():
            sums += [error.length, error.insertions, error.deletions, error.substitutions]
        return sums

    def take(self, counts: Sequence[float]) -> None:
        """Replaces the sums by those of a list that `counts` of an equal tally made."""
        rest = iter(counts)
        self.utterances = int(next(rest))
        self.losses = {name: next(rest) for name in self.losses}
        self.errors = {head: ErrorCounts(*(int(next(rest)) for _ in range(4))) for head in self.errors}

    def metrics(self, default: str) -> dict[str, float]:
        """Mean losses, and the word error rates of all heads; `wer` is that of the default one."""
        means = {name: value / max(1, self.utterances) for name, value in self.losses.items()}
        rates = {f"{head}_wer": error.rate for head, error in self.errors.items()}
        return {**means, **rates, "wer": self.errors[default].rate}


class SpeechTask(Task):
    """Base of the tasks that train a speech recogniser: what they freeze, hear and read."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    shortest_seconds: ClassVar[float] = SHORTEST_SECONDS
    model: SpeechRecognizer

    def __init__(
        self, model: SpeechRecognizer, optim: OptimizerBuilder, config: TaskConfig, *, seed: int = 0
    ) -> None:
        if model.tokenizer is None:
            raise ConfigError("the model has no tokenizer, and training needs one: give a tokenizer section")
        super().__init__(model, optim, seed=seed)
        self.config = config
        freeze(model, config.freeze)

    def data(
        self,
        config: DataConfig,
        *,
        train: Iterable[Any] | None = None,
        validation: Mapping[str, Iterable[Any]] | None = None,
    ) -> SpeechDataModule[Any]:
        """The data module with this task's batches, at the model's sample rate whatever the config says.

        `train` and `validation` (sets by name) are cuts to use instead of the config's inputs.
        """
        assert self.model.tokenizer is not None, "checked in the constructor"
        config = replace(config, sample_rate=self.model.sample_rate)
        return speech_data(config, self.model.tokenizer, train=train, validation=validation)

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> Any:
        """A batch of noise: that many recordings of that many seconds, each with that many random tokens."""
        length = max(1, round(seconds * self.model.sample_rate))
        draws = torch.Generator().manual_seed(0)
        signal = 0.1 * torch.randn(batch_size, length, generator=draws)
        ids = torch.randint(self.model.config.vocab_size, (batch_size, tokens), generator=draws)
        return collate(
            list(signal), ids.tolist(), [""] * batch_size, [f"made-{row}" for row in range(batch_size)]
        )

    def encode(self, batch: SpeechBatch) -> EncoderOutput:
        """Encoder states of a batch, very short recordings lengthened as `transcribe` lengthens them."""
        shortest = round(SHORTEST_SECONDS * self.model.sample_rate)
        return self.model.encode(*lengthened(batch.signal, batch.signal_lengths, shortest))

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The losses of a batch by name."""
        return self.losses_of(self.encode(batch), batch)

    @abstractmethod
    def losses_of(self, output: EncoderOutput, batch: Any) -> dict[str, Tensor]:
        """The losses of a batch from its encoder states [B, T, D], which another system may have changed."""

    def batch_size(self, batch: SpeechBatch) -> int:
        """The number of utterances."""
        return len(batch)

    def _set_names(self) -> Sequence[str]:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        return getattr(datamodule, "validation_names", None) or ("validation",)


class RecognitionTask(SpeechTask):
    """Trains a speech recogniser; validation reports the loss and the word error rate of each of its heads.

    `val/loss` is the trained loss, `val/<head>_loss` and `val/<head>_wer` belong to one head, and `val/wer`
    is that of the default head. With several validation sets these are the first one's, and every set has its
    own as `val/<set>/...`. All are exact over the set, however it was batched or split over processes.
    """

    def __init__(
        self, model: SpeechRecognizer, optim: OptimizerBuilder, config: TaskConfig, *, seed: int = 0
    ) -> None:
        super().__init__(model, optim, config, seed=seed)
        self._tallies: list[Tally] = []

    @abstractmethod
    def head_losses(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """Mean loss of the batch for each head, by the head's name, from encoder states [B, T, D]."""

    def weights(self) -> Mapping[str, float]:
        """What each head's loss counts for in the trained one."""
        return dict.fromkeys(self.model.heads, 1.0)

    def losses_of(self, output: EncoderOutput, batch: SpeechBatch) -> dict[str, Tensor]:
        """The weighted loss as `loss`, and each head's as `<head>_loss` where there are several."""
        return self._weighted(self.head_losses(output, batch))

    def _weighted(self, by_head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = self.weights()
        total = torch.stack([weights[head] * loss for head, loss in by_head.items()]).sum()
        return {"loss": total, **{f"{head}_loss": loss for head, loss in by_head.items() if len(by_head) > 1}}

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero."""
        self._tallies = [Tally.of(self.model.heads) for _ in self._set_names()]

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the losses and word errors of one batch."""
        tally = self._tallies[dataloader_idx]
        output = self.encode(batch)
        by_head = self.head_losses(output, batch)
        named = {f"{head}_loss": loss for head, loss in by_head.items()}
        for name, value in {**self._weighted(by_head), **named}.items():
            tally.losses[name] += float(value) * len(batch)
        tally.utterances += len(batch)
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        for head in self.model.heads:
            hypotheses, _ = self.model.decode(output.states, output.lengths, head=head, confidence=None)
            for text, hypothesis in zip(batch.texts, hypotheses):
                tally.errors[head] += score_utterance(text, tokenizer.decode(hypothesis.tokens)).words

    def on_validation_epoch_end(self) -> None:
        """Logs the means over each whole set, summed over all processes."""
        for index, (name, tally) in enumerate(zip(self._set_names(), self._tallies)):
            if self.trainer.world_size > 1:
                counts = torch.tensor(tally.counts(), dtype=torch.float64, device=self.device)
                tally.take(self.trainer.strategy.reduce(counts, reduce_op="sum").tolist())
            prefixes = ["val"] if index == 0 else []
            if len(self._tallies) > 1:
                prefixes.append(f"val/{name}")
            for prefix in prefixes:
                for metric, value in tally.metrics(self.model.heads[0]).items():
                    self.log(f"{prefix}/{metric}", value, prog_bar=f"{prefix}/{metric}" == "val/wer")

    @property
    def errors(self) -> dict[str, ErrorCounts]:
        """Word errors of the last validation on the first set, by head, over all processes."""
        return dict(self._tallies[0].errors) if self._tallies else {}

    def summary(self) -> list[str]:
        """The word errors of each head by their kinds."""
        return [f"{head} WER {errors}" for head, errors in self.errors.items()]


def lengthened(signal: Tensor, lengths: Tensor, shortest: int) -> tuple[Tensor, Tensor]:
    """Signals [B, S] with silence on both sides of the rows that have fewer than `shortest` samples."""
    before = (shortest - lengths).clamp(min=0) // 2
    if not bool((lengths < shortest).any()):
        return signal, lengths
    width = max(signal.shape[1], shortest)
    place = torch.arange(width, device=signal.device) - before[:, None]
    inside = (place >= 0) & (place < lengths[:, None])
    moved = signal.gather(1, place.clamp(0, signal.shape[1] - 1))
    return moved.masked_fill(~inside, 0.0), lengths.clamp(min=shortest)


def task_class(model_type: str) -> type[SpeechTask]:
    """The task that trains models of that type."""
    if model_type not in _TASKS:
        raise ConfigError(f"model.type is {model_type!r}; {nearest(model_type, _TASKS)}")
    module, name = _TASKS[model_type]
    found: type[SpeechTask] = getattr(import_module(module), name)
    return found


def make_task(
    model: SpeechRecognizer, optim: OptimizerBuilder, config: TaskConfig | None = None, *, seed: int = 0
) -> SpeechTask:
    """The task for a model, whatever its type; `config` None means that task's defaults."""
    cls = task_class(model.model_type)
    made: Any = cls(model, optim, config if config is not None else cls.Config(), seed=seed)
    task: SpeechTask = made
    return task
