"""The training of Sortformer: its loss, and how right it is about who speaks when, with and without a search.

Imported only to train. B batch, S samples, T frames, N speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.asr.finetune import freeze
from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.diarization.batch import DiarizationBatch, MakeDiarizationBatch, collate
from aronnax.collections.diarization.sortformer.loss import (
    ACTIVE,
    Criterion,
    diarization_losses,
    matched_targets,
    sorted_targets,
)
from aronnax.collections.diarization.sortformer.model import Activity, SortformerModel
from aronnax.core.errors import ConfigError
from aronnax.core.task import OptimizerBuilder, Task


@dataclass(frozen=True)
class SortformerTaskConfig:
    """The `task` section; the weights of the two losses stand in the model's own section."""

    freeze: tuple[str, ...] = ()
    """Parts that do not learn: dotted prefixes (`encoder`) or patterns (`*.norm_*`)."""
    criterion: Criterion = "match"
    """How the permutation-invariant loss chooses: by "match" score as the reference, or by least "cost"."""
    streaming: float = 0.0
    """Share of the batches heard chunk by chunk with the model's own streaming profile, as it is used live."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.streaming <= 1.0:
            raise ConfigError(f"task.streaming={self.streaming} must lie between 0 and 1")


@dataclass
class FrameCounts:
    """Speaker frames of a set of sessions: said, missed, too many and confused; sums that add up."""

    spoken: float = 0.0
    """In the reference, two at once counted twice."""
    missed: float = 0.0
    false_alarm: float = 0.0
    confused: float = 0.0
    """With output n taken for the n-th speaker to arrive."""
    confused_best: float = 0.0
    """With the outputs matched to the speakers as well as they can be."""
    sessions: float = 0.0
    """With speech in them."""
    first_right: float = 0.0
    """Sessions in which the first output fits the first speaker better than the other outputs do."""
    order_right: float = 0.0
    """Sessions in which no matching is better than the order of arrival."""
    loss: float = 0.0
    sort: float = 0.0
    pil: float = 0.0
    rows: float = 0.0
    """Sessions, for the means of the losses."""

    def __add__(self, other: FrameCounts) -> FrameCounts:
        return FrameCounts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def metrics(self) -> dict[str, float]:
        """The numbers that validation logs."""
        spoken, sessions, rows = max(1.0, self.spoken), max(1.0, self.sessions), max(1.0, self.rows)
        wrong = self.missed + self.false_alarm
        correct = self.spoken - self.missed - self.confused_best
        found = self.spoken - self.missed + self.false_alarm
        return {
            "loss": self.loss / rows,
            "sort": self.sort / rows,
            "pil": self.pil / rows,
            "der": (wrong + self.confused) / spoken,
            "der_best": (wrong + self.confused_best) / spoken,
            "f1": 2 * correct / max(1.0, self.spoken + found),
            "first_right": self.first_right / sessions,
            "order_right": self.order_right / sessions,
        }


def count_frames(probabilities: Tensor, labels: Tensor, lengths: Tensor) -> FrameCounts:
    """How probabilities [B, T, N] compare with labels [B, T, N] over `lengths` [B] frames, at a threshold of 0.5."""
    frames = probabilities.shape[1]
    valid = valid_frames(lengths, frames)[:, :, None]
    labels = (labels[:, :frames] >= ACTIVE).float() * valid
    found = (probabilities >= 0.5).float() * valid
    in_order, best = sorted_targets(labels, found), matched_targets(labels, found, lengths)
    said, heard = labels.sum(2), found.sum(2)
    both = torch.minimum(said, heard)
    confused = both.sum(1) - (in_order * found).sum((1, 2))
    confused_best = both.sum(1) - (best * found).sum((1, 2))
    spoken = said.sum(1) > 0
    # An output that never speaks fits nobody, so that silence is not right.
    fits = torch.einsum("bt,btn->bn", in_order[:, :, 0], found)
    first = (fits.argmax(1) == 0) & (fits[:, 0] > 0) if frames else torch.zeros_like(spoken)
    order = (confused <= confused_best) & (found.sum((1, 2)) > 0)
    return FrameCounts(
        spoken=float(said.sum()),
        missed=float((said - both).sum()),
        false_alarm=float((heard - both).sum()),
        confused=float(confused.sum()),
        confused_best=float(confused_best.sum()),
        sessions=float(spoken.sum()),
        first_right=float((first & spoken).sum()),
        order_right=float((order & spoken).sum()),
    )


class SortformerTask(Task):
    """Trains a Sortformer by its hybrid loss.

    Validation logs the losses; `val/der`, the share of wrong speaker frames when output n is taken for the n-th
    speaker to arrive, overlap counted; `val/der_best`, the same with the outputs matched to the speakers as well as
    they can be, and `val/f1` of that; `val/first_right` and `val/order_right`, the shares of sessions whose first
    speaker, or whose whole order, is right without a search. With several sets these are the first one's, and
    every set has its own as `val/<set>/...`. A frame is 80 ms in all published sizes; thresholds are 0.5.
    """

    Config: ClassVar[type[SortformerTaskConfig]] = SortformerTaskConfig
    model: SortformerModel

    def __init__(
        self,
        model: SortformerModel,
        optim: OptimizerBuilder,
        config: SortformerTaskConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optim, seed=seed)
        self.config = config or SortformerTaskConfig()
        if self.config.streaming and not model.config.streaming:
            raise ConfigError("task.streaming needs a model with streaming: true")
        freeze(model, self.config.freeze)
        self._sets: list[FrameCounts] = []

    def batch_maker(self) -> MakeDiarizationBatch:
        """Makes this model's batches of cuts."""
        model = self.model
        return MakeDiarizationBatch(model.sample_rate, model.samples_per_frame, model.max_speakers)

    def batch_size(self, batch: DiarizationBatch) -> int:
        """The number of sessions."""
        return len(batch)

    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> DiarizationBatch:
        """A batch of noise: that many sessions of that many seconds with random turns; `tokens` has no meaning."""
        draws = torch.Generator().manual_seed(0)
        samples = max(1, round(seconds * self.model.sample_rate))
        frames = -(-samples // self.model.samples_per_frame)
        signal = 0.1 * torch.randn(batch_size, samples, generator=draws)
        labels = (torch.rand(batch_size, frames, self.model.max_speakers, generator=draws) > 0.5).float()
        names = tuple(f"speaker-{number}" for number in range(self.model.max_speakers))
        return collate(
            list(signal),
            [(row.numpy(), names) for row in labels],
            [f"made-{row}" for row in range(batch_size)],
        )

    def losses(self, batch: DiarizationBatch) -> dict[str, Tensor]:
        """The hybrid loss as `loss`, and its parts `sort` and `pil`."""
        return self._losses(self._hear(batch), batch)

    def _hear(self, batch: DiarizationBatch) -> Activity:
        # The step is seeded, so this draw is the same after an interruption.
        if self.training and self.config.streaming and float(torch.rand(())) < self.config.streaming:
            return self.model.forward_streaming(batch.signal, batch.signal_lengths)
        heard: Activity = self.model(batch.signal, batch.signal_lengths)
        return heard

    def _losses(self, heard: Activity, batch: DiarizationBatch) -> dict[str, Tensor]:
        config = self.model.config
        found = diarization_losses(
            heard.probabilities,
            batch.labels,
            heard.lengths,
            sort_weight=config.sort_weight,
            pil_weight=config.pil_weight,
            criterion=self.config.criterion,
        )
        return {"loss": found.loss, "sort": found.sort, "pil": found.pil}

    def on_validation_epoch_start(self) -> None:
        """Starts counting from zero."""
        self._sets = [FrameCounts() for _ in self._set_names()]

    def validation_step(self, batch: DiarizationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts one batch."""
        heard = self._hear(batch)
        counts = count_frames(heard.probabilities, batch.labels, heard.lengths)
        losses = self._losses(heard, batch)
        counts.loss, counts.sort, counts.pil = (
            float(losses[name]) * len(batch) for name in ("loss", "sort", "pil")
        )
        counts.rows = float(len(batch))
        self._sets[dataloader_idx] += counts

    def on_validation_epoch_end(self) -> None:
        """Logs the numbers of each whole set, all processes together."""
        for index, (name, counts) in enumerate(zip(self._set_names(), self._sets)):
            if self.trainer.world_size > 1:
                sums = torch.tensor(
                    [getattr(counts, one.name) for one in fields(counts)],
                    dtype=torch.float64,
                    device=self.device,
                )
                counts = FrameCounts(*self.trainer.strategy.reduce(sums, reduce_op="sum").tolist())
            prefixes = ["val"] if index == 0 else []
            if len(self._sets) > 1:
                prefixes.append(f"val/{name}")
            for prefix in prefixes:
                for metric, value in counts.metrics().items():
                    self.log(f"{prefix}/{metric}", value, prog_bar=f"{prefix}/{metric}" == "val/der")

    def _set_names(self) -> Sequence[str]:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        return getattr(datamodule, "validation_names", None) or ("validation",)
