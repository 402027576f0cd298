"""Reading audio for batches, and the training loader that knows which batch comes next.

B batch, C channels, S samples.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

from aronnax.collections.common.data.filters import cut_name
from aronnax.collections.common.data.recordings import consists_of_others, heard
from aronnax.collections.common.data.report import Dropped
from aronnax.core.errors import AudioError, ManifestError

Batch = TypeVar("Batch")
MakeBatch = Callable[[list[Cut], list[Tensor]], Batch]
"""Makes a collection's batch from cuts and their signals [S]; must be picklable.

A cut that consists of several recordings, or of none, has that many signals."""

_MOST_BAD_BATCHES = 10
# Lhotse lists what each of its decoders had to say; the first one's word is enough.
_FIRST_DECODER = re.compile(r"Exception #0 \(<class '[^']*'>\): <class '[^']*'>: (.*?)\.?(?: Exception #1|$)")


@dataclass
class Loaded(Generic[Batch]):
    """What a worker hands over: a batch, or None when nothing in it could be read."""

    batch: Batch | None
    skipped: list[tuple[str, str, float]]
    """Name, what was wrong, and seconds of each recording left out."""
    seconds: float
    """Of sound."""
    padded_seconds: float
    """Of sound and padding."""

    def pin_memory(self) -> Loaded[Batch]:
        """The same with the batch in page-locked memory."""
        if self.batch is not None and hasattr(self.batch, "pin_memory"):
            self.batch = self.batch.pin_memory()
        return self


@dataclass
class DataStats:
    """How well the training is fed; `reset` starts a new measurement."""

    batches: int = 0
    recordings_skipped: int = 0
    seconds: float = 0.0
    """Of sound."""
    padded_seconds: float = 0.0
    """Of sound and padding."""
    waited: float = 0.0
    """Seconds the training loop waited for batches."""
    since: float = 0.0
    """When the measurement began, on the performance counter."""

    @property
    def padding(self) -> float:
        """Share of padding in the batches, 0 to 1."""
        return 1.0 - self.seconds / self.padded_seconds if self.padded_seconds else 0.0

    @property
    def wait(self) -> float:
        """Share of the time that went by waiting for data, 0 to 1."""
        passed = time.perf_counter() - self.since
        return min(1.0, self.waited / passed) if self.since and passed > 0 else 0.0

    def add(self, loaded: Loaded[Any]) -> None:
        """Count what a worker handed over."""
        self.batches += loaded.batch is not None
        self.recordings_skipped += len(loaded.skipped)
        self.seconds += loaded.seconds
        self.padded_seconds += loaded.padded_seconds

    def reset(self) -> None:
        """Begin anew."""
        self.__init__(since=time.perf_counter())  # type: ignore[misc]


class ReadingDataset(Dataset, Generic[Batch]):
    """Turns a batch of cuts into a batch of tensors; recordings that cannot be read are left out and named."""

    def __init__(self, make_batch: MakeBatch[Batch], sample_rate: int, channel: int | str = "mean") -> None:
        self.make_batch, self.sample_rate, self.channel = make_batch, sample_rate, channel

    def __getitem__(self, cuts: CutSet) -> Loaded[Batch]:
        kept, signals, lengths, skipped = [], [], [], []
        for cut in cuts:
            try:
                parts = [load_signal(part, self.sample_rate, self.channel) for part in heard(cut)]
            except Exception as error:  # decoders raise anything at all on damaged files
                skipped.append((cut_name(cut), _one_line(error), float(cut.duration)))
                continue
            signals += parts
            kept.append(cut)
            alone = not consists_of_others(cut)
            lengths.append(parts[0].shape[0] / self.sample_rate if alone else float(cut.duration))
        if not kept:
            return Loaded(None, skipped, 0.0, 0.0)
        return Loaded(self.make_batch(kept, signals), skipped, sum(lengths), max(lengths) * len(lengths))


def load_signal(cut: Cut, sample_rate: int, channel: int | str = "mean") -> Tensor:
    """Samples of a cut at `sample_rate`, float32 [S].

    Raises:
        AudioError: it holds no samples, or values that are not finite, or lacks the channel.
    """
    samples = np.atleast_2d(cut.load_audio())
    if channel == "mean":
        signal = samples.mean(axis=0) if samples.shape[0] > 1 else samples[0]
    elif int(channel) < samples.shape[0]:
        signal = samples[int(channel)]
    else:
        raise AudioError(f"it has {samples.shape[0]} channels, and none with number {channel}")
    if signal.size == 0:
        raise AudioError("it holds no samples")
    if not np.isfinite(signal).all():
        raise AudioError("it holds values that are not finite numbers")
    if cut.sampling_rate != sample_rate:
        import soxr

        signal = soxr.resample(signal, cut.sampling_rate, sample_rate)
    return torch.from_numpy(np.ascontiguousarray(signal, dtype=np.float32))


class TrainingLoader(Generic[Batch]):
    """Batches of pass after pass over the data, and the place to go on from.

    Iterating again continues a pass that was not finished, so that an epoch of the trainer may be shorter than a
    pass or never end one. A batch counts as used when `use` is called, which the data module does when the batch
    goes to the device; without `external` it counts as soon as it is handed out.
    """

    def __init__(
        self,
        open_pass: Callable[[int, int], Iterable[Loaded[Batch]]],
        dropped: Dropped,
        stats: DataStats,
        world_size: int = 1,
    ) -> None:
        self._open_pass, self._dropped, self.stats = open_pass, dropped, stats
        self.world_size = world_size
        self.external = False
        self._used = self._next = _Place(0, 0)
        self._waiting: deque[tuple[_Place, Batch]] = deque()
        self._running: Generator[tuple[_Place, Batch], None, None] | None = None
        self._last: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        for _, batch in tuple(self._waiting):
            yield batch
        if self._running is None:
            self._running = self._read()
        if not self.stats.since:
            self.stats.reset()
        item = next(self._running, None)
        if item is None:
            # The last batch of a pass was handed out, but nobody had asked for one more.
            self._running = self._read()
            item = next(self._running, None)
        while item is not None:
            self._waiting.append(item)
            if not self.external:
                self.use()
            yield item[1]
            item = next(self._running, None) if self._running is not None else None
        self._running = None

    def use(self) -> None:
        """Count the oldest batch handed out as trained on."""
        if self._waiting:
            self._used, _ = self._waiting.popleft()

    def state_dict(self) -> dict[str, int]:
        """The pass over the data, and how many of its batches this process has trained on."""
        epoch, position = self._used
        return {"epoch": epoch, "position": position, "world_size": self.world_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the batch after the last one that `state` counts."""
        self.close()
        # With another number of processes the same batches do not exist; go on about as far into the pass.
        position = state["position"] * state["world_size"] // self.world_size
        self._used = self._next = _Place(state["epoch"], position)

    def close(self) -> None:
        """Stop the workers and forget what they have read ahead."""
        if self._running is not None:
            self._running.close()
        self._running, self._last = None, None
        self._waiting.clear()
        self._next = self._used

    def _read(self) -> Generator[tuple[_Place, Batch], None, None]:
        """The rest of a pass; the whole next one when it turns out to have no rest."""
        place = self._next
        found = yield from self._read_pass(place)
        self._next = _Place(place.epoch + 1, 0)
        if not found and place.position:
            found = yield from self._read_pass(self._next)
            self._next = _Place(place.epoch + 2, 0)
        if not found:
            raise ManifestError(f"there is nothing to train on: {self._dropped}")

    def _read_pass(self, place: _Place) -> Generator[tuple[_Place, Batch], None, bool]:
        failures: list[tuple[str, str]] = []
        position, found = place.position, False
        batches = iter(self._open_pass(place.epoch, place.position))
        while (loaded := self._fetch(batches)) is not None:
            position += 1
            if loaded.batch is None:
                failures.append(loaded.skipped[0][:2])
                _give_up_after(failures)
                # Alone we pass on; among several processes the others wait for this one to train on something.
                if self.world_size == 1 or self._last is None:
                    continue
            else:
                failures.clear()
                self._last = loaded.batch
            found = True
            yield _Place(place.epoch, position), self._last
        return found

    def _fetch(self, batches: Iterator[Loaded[Batch]]) -> Loaded[Batch] | None:
        began = time.perf_counter()
        loaded = next(batches, None)
        self.stats.waited += time.perf_counter() - began
        if loaded is not None:
            self._dropped.note(loaded.skipped)
            self.stats.add(loaded)
        return loaded


class _Place(NamedTuple):
    epoch: int
    position: int


def _give_up_after(failures: Sequence[tuple[str, str]]) -> None:
    if len(failures) >= _MOST_BAD_BATCHES:
        name, why = failures[0]
        raise AudioError(
            f"nothing could be read in {len(failures)} batches one after the other; the first was {name}: {why}"
        )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    listed = _FIRST_DECODER.search(text)
    return (listed[1] if listed else text)[:200] or type(error).__name__


def keep(loaded: Any) -> Any:
    """What a worker made, as it is: collation already happened."""
    return loaded
