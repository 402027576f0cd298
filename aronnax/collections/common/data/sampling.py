"""Batches of cuts: Lhotse's dynamic buckets, filled in a reproducible order even when a thread reads ahead."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import Queue
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler, SamplingConstraint, TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import (
    BucketSelectionState,
    DynamicBucketer,
    FixedBucketBatchSizeConstraint,
)

from aronnax.collections.common.data.bins import estimate_bins
from aronnax.collections.common.data.config import BatchingConfig, Bin
from aronnax.collections.common.data.filters import count_tokens

_DEFAULT_BATCH_SIZE = 8


@dataclass
class FixedSizes2D(FixedBucketBatchSizeConstraint):
    """Fixed batch sizes for [seconds, tokens] buckets: the first bucket that is long enough in both."""

    def measure_length(self, example: Cut) -> Any:
        """Seconds and tokens of a cut."""
        return example.duration, count_tokens(example, None)

    def select_bucket(self, buckets: Any, example: Any = None, example_len: Any = None) -> int:
        """Index of the first bucket a cut fits into."""
        seconds, tokens = self.measure_length(example) if example_len is None else example_len
        for index, (most_seconds, most_tokens) in enumerate(buckets):
            if seconds <= most_seconds and tokens <= most_tokens:
                return index
        return len(buckets)


def constraint_of(config: BatchingConfig) -> SamplingConstraint:
    """What closes a batch."""
    if config.bucket_batch_sizes:
        kind = FixedSizes2D if config.two_dimensional else FixedBucketBatchSizeConstraint
        bins: Any = list(config.bucket_duration_bins)
        return kind(max_seq_len_buckets=bins, batch_sizes=list(config.bucket_batch_sizes))
    size = config.batch_size
    if size is None and config.batch_duration is None:
        size = _DEFAULT_BATCH_SIZE
    return TimeConstraint(
        max_duration=config.batch_duration, max_cuts=size, quadratic_duration=config.quadratic_duration
    )


def bins_of(config: BatchingConfig, cuts: Iterable[Cut]) -> list[Bin]:
    """The edges between buckets: those of the configuration, or estimated from the first cuts."""
    if config.bucket_duration_bins:
        return list(config.bucket_duration_bins)
    if config.buckets == 1:
        return []
    durations = [cut.duration for cut in islice(cuts, config.bins_estimate)]
    return list(estimate_bins(durations, config.buckets)[:-1]) if durations else []


class BucketSampler(CutSampler):
    """One pass over `cuts` in batches from one bucket each; every process takes its own of each `world_size` batches.

    All processes draw with the same seed and so agree on the batches without talking to each other.
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        bins: Sequence[Bin],
        config: BatchingConfig,
        *,
        shuffle: bool,
        seed: int,
        world_size: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(shuffle=shuffle, world_size=world_size, rank=rank, seed=seed)
        self._cuts, self._bins, self._config = cuts, list(bins), config
        self._batches: Iterator[CutSet] = iter(())

    def __iter__(self) -> BucketSampler:
        self.close()
        # With a generator of their own for buckets, all processes train on like lengths at a time; without one,
        # Lhotse 1.33 also ends a pass early, because it takes an empty queue for a filled one.
        bucket_rng = random.Random(f"{self.seed} buckets")
        source: Iterable[Cut] = self._cuts
        if self._config.concurrent:
            source = _read_ahead(source, max(100, self._config.buffer_size // 10))
        self._batches = iter(
            _Buckets(
                source,
                duration_bins=self._bins,
                world_size=self.world_size,
                constraint=constraint_of(self._config),
                buffer_size=self._config.buffer_size,
                shuffle=self.shuffle,
                rng=random.Random(f"{self.seed} batches"),
                bucket_rng=bucket_rng,
                gradual=self._config.concurrent,
            )
        )
        return self

    def close(self) -> None:
        """Stop reading ahead."""
        if hasattr(self._batches, "close"):
            self._batches.close()

    def _next_batch(self) -> CutSet:
        return next(self._batches)

    @property
    def remaining_duration(self) -> float | None:
        """Not known of a stream."""
        return None

    @property
    def remaining_cuts(self) -> int | None:
        """Not known of a stream."""
        return None

    @property
    def num_cuts(self) -> int | None:
        """Not known of a stream."""
        return None


class _Buckets(DynamicBucketer):
    """Lhotse's buckets that may begin with a tenth of their buffer and fill up while batches are drawn.

    How much is read after each batch depends only on counts, never on time, so the batches are reproducible.
    """

    def __init__(self, cuts: Iterable[Cut], *, gradual: bool, **options: Any) -> None:
        super().__init__(cuts, **options)
        self._gradual = gradual
        self._held = 0
        self._at_end = False

    def __iter__(self) -> Iterator[CutSet]:
        try:
            yield from super().__iter__()
        finally:
            close = getattr(self.cuts, "close", None)
            if close is not None:
                close()

    def _collect_cuts_in_buckets(self, n_cuts: int) -> None:
        if self._held == 0 and not self._at_end:
            wanted = max(1, self.buffer_size // 10) if self._gradual else self.buffer_size
        else:
            self._held -= n_cuts
            wanted = min(3 * n_cuts, self.buffer_size - self._held)
        self._take(wanted)

    def _take(self, wanted: int) -> None:
        for cut in islice(self.cuts_iter, wanted):
            self.buckets[self.constraint.select_bucket(buckets=self.duration_bins, example=cut)].put(cut)
            self._held += 1
            wanted -= 1
        self._at_end = wanted > 0

    def _select_bucket(self, state: BucketSelectionState) -> Queue:
        # A small beginning must not lead to small batches.
        while self._growing() and not any(self._is_ready(bucket) for bucket in self.buckets):
            self._take(min(max(1, self.buffer_size // 10), self.buffer_size - self._held))
        return super()._select_bucket(state)

    def _growing(self) -> bool:
        return not self._at_end and self._held < self.buffer_size


def _read_ahead(cuts: Iterable[Cut], size: int) -> Iterator[Cut]:
    """The same cuts in the same order, read by a thread at most `size` of them ahead."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=size)
    stop, end = threading.Event(), object()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for cut in cuts:
                if not put(cut):
                    return
            put(end)
        except BaseException as error:  # handed over, so that it is raised where the cuts are used
            put(error)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
