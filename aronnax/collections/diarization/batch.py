"""What a training step of diarization works on: sessions, and who is active in each frame of them.

B batch, S samples, T frames, N speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from lhotse import SupervisionSegment
    from lhotse.cut import Cut

SHORTEST_WINDOW = 1.0
"""Seconds; a shorter rest of a recording is left out of the windows."""


@dataclass
class DiarizationBatch:
    """Sessions and their labels, padded with zeros to the longest of the batch."""

    signal: Tensor
    """Samples at the model's rate, float32 [B, S]."""
    signal_lengths: Tensor
    """Samples that are not padding, int64 [B]."""
    labels: Tensor
    """1 where a speaker is active, float32 [B, T, N]; speakers in the order of their first words."""
    label_lengths: Tensor
    """Frames that are not padding, int64 [B]."""
    ids: list[str]
    """Names of the sessions."""
    speakers: list[tuple[str, ...]]
    """Names of the speakers of each session's columns."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DiarizationBatch:
        """The same batch with its tensors on `device`."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DiarizationBatch:
        """The same batch with its tensors in page-locked memory."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> DiarizationBatch:
        return replace(
            self,
            signal=change(self.signal),
            signal_lengths=change(self.signal_lengths),
            labels=change(self.labels),
            label_lengths=change(self.label_lengths),
        )


@dataclass(frozen=True)
class MakeDiarizationBatch:
    """Makes a DiarizationBatch from Lhotse cuts and their signals [S]; labels come from the cuts' supervisions."""

    sample_rate: int
    samples_per_frame: int
    max_speakers: int

    def __call__(self, cuts: Sequence[Cut], signals: Sequence[Tensor]) -> DiarizationBatch:
        rows = [
            activity(
                cut.supervisions, len(signal), self.sample_rate, self.samples_per_frame, self.max_speakers
            )
            for cut, signal in zip(cuts, signals)
        ]
        return collate(signals, rows, [str(cut.id) for cut in cuts])


def activity(
    supervisions: Sequence[SupervisionSegment],
    samples: int,
    sample_rate: int,
    samples_per_frame: int,
    max_speakers: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Who is active in each frame of `samples` samples: float32 [T, max_speakers], and the names of the columns.

    Turns begin and end at the nearest sample; what lies outside the session is cut off. A speaker is active in a
    frame who speaks during at least half of it (the last frame may be shorter). NeMo counts steps of 10 ms in
    place of samples. The columns are sorted by first words; of more than `max_speakers` those who say most stay.
    """
    frames = -(-samples // samples_per_frame)
    spoken: dict[str, np.ndarray] = {}
    for turn in supervisions:
        start = max(0, round(turn.start * sample_rate))
        stop = min(samples, round(turn.end * sample_rate))
        if stop > start:
            name = turn.speaker or "unknown"
            spoken.setdefault(name, np.zeros(frames * samples_per_frame, bool))[start:stop] = True
    most = sorted(spoken, key=lambda name: (-int(spoken[name].sum()), name))[:max_speakers]
    names = tuple(sorted(most, key=lambda name: (int(spoken[name].argmax()), name)))
    labels = np.zeros((frames, max_speakers), np.float32)
    sizes = np.full(frames, samples_per_frame)
    sizes[-1:] -= frames * samples_per_frame - samples
    for column, name in enumerate(names):
        labels[:, column] = 2 * spoken[name].reshape(frames, -1).sum(1) >= sizes
    return labels, names


def collate(
    signals: Sequence[Tensor], rows: Sequence[tuple[np.ndarray, tuple[str, ...]]], ids: Sequence[str]
) -> DiarizationBatch:
    """Pads sessions [S] and their labels [T, N] into one batch."""
    labels = [torch.from_numpy(row) for row, _ in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return DiarizationBatch(
        pad(list(signals), batch_first=True),
        torch.tensor([len(signal) for signal in signals], dtype=torch.int64),
        pad(labels, batch_first=True),
        torch.tensor([len(row) for row in labels], dtype=torch.int64),
        list(ids),
        [names for _, names in rows],
    )


def windows(cut: Cut, seconds: float, first: float | None = None) -> Iterator[Cut]:
    """A session in pieces of `seconds`, the first one of `first` seconds if given; a short rest is left out.

    Turns across an edge stand in both pieces, which `activity` cuts off where the piece ends.
    """
    start, length = 0.0, seconds if first is None else min(first, seconds)
    if cut.duration <= length:
        yield cut
        return
    number = 0
    while cut.duration - start >= SHORTEST_WINDOW:
        duration = min(length, cut.duration - start)
        if duration >= SHORTEST_WINDOW:
            yield cut.truncate(offset=start, duration=duration).with_id(f"{cut.id}-{number:04d}")
        start, length, number = start + length, seconds, number + 1
