"""Batches of cuts from buckets of like length, in an order that does not depend on time or on the rank.

A bucket is open to the first recording that fits it: seconds, or seconds and tokens. Batches come in groups, one for
each process and all of one bucket, so that no process waits long for another.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import CutSampler

from aronnax.collections.common.data.bins import estimate_bins
from aronnax.collections.common.data.config import BatchingConfig, Bin
from aronnax.collections.common.data.filters import count_tokens

logger = logging.getLogger(__name__)

_DEFAULT_BATCH_SIZE = 8

Length = tuple[float, int]
"""Seconds, and tokens where buckets go by them (else 0)."""


class Edges:
    """Which bucket a recording belongs to, and how many recordings make a batch."""

    def __init__(self, bins: Sequence[Bin], config: BatchingConfig) -> None:
        self.bins, self._config = list(bins), config
        self.count = len(self.bins) if config.closed else len(self.bins) + 1
        self._pairs = [edge for edge in self.bins if isinstance(edge, tuple)]
        self._seconds = [edge[0] if isinstance(edge, tuple) else edge for edge in self.bins]

    def length(self, cut: Cut) -> Length:
        """Of a cut, as far as buckets care."""
        return cut.duration, count_tokens(cut, None) if self._pairs else 0

    def bucket(self, length: Length) -> int:
        """The first bucket that is long enough in both; `count` or more where there is none."""
        seconds, tokens = length
        first = bisect_left(self._seconds, seconds)
        if not self._pairs:
            return first
        fitting = (index for index in range(first, len(self._pairs)) if tokens <= self._pairs[index][1])
        return next(fitting, self.count)

    def capacity(self, length: Length) -> int:
        """Recordings of at most this length that make a full batch, at least 1."""
        config, bucket = self._config, self.bucket(length)
        if config.bucket_batch_sizes:
            return config.bucket_batch_sizes[bucket] if bucket < self.count else 1
        seconds, tokens = self._pairs[bucket] if self._pairs and bucket < self.count else length
        sizes = [] if config.batch_size is None else [config.batch_size]
        if config.batch_duration is not None:
            square = 0.0 if config.quadratic_duration is None else seconds**2 / config.quadratic_duration
            sizes.append(int(config.batch_duration / (seconds + square) + 1e-9))
        if config.batch_tokens is not None:
            sizes.append(config.batch_tokens // max(1, tokens))
        return max(1, min(sizes, default=_DEFAULT_BATCH_SIZE))


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
        self._batches: Iterator[list[Cut]] = iter(())

    def __iter__(self) -> BucketSampler:
        self.close()
        source: Iterable[Cut] = self._cuts
        if self._config.concurrent:
            source = _read_ahead(source, max(100, self._config.buffer_size // 10))
        buckets = _Buckets(
            source,
            Edges(self._bins, self._config),
            self._config,
            self.world_size,
            random.Random(f"{self.seed} batches") if self.shuffle else None,
        )
        self._batches = buckets.batches()
        return self

    def close(self) -> None:
        """Stop reading ahead."""
        if hasattr(self._batches, "close"):
            self._batches.close()

    def _next_batch(self) -> CutSet:
        return CutSet.from_cuts(next(self._batches))

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


class _Buckets:
    """Cuts on their way into batches; `batches` gives them in groups of `world_size` from one bucket.

    Reading may begin with a tenth of the buffer, which fills up while batches are drawn. How much is read after each
    group depends only on counts, never on time, so the batches are reproducible.
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        edges: Edges,
        config: BatchingConfig,
        world_size: int,
        rng: random.Random | None,
    ) -> None:
        self._cuts, self._edges, self._world_size, self._rng = iter(cuts), edges, world_size, rng
        self._buffer_size = config.buffer_size
        self._portion = max(1, config.buffer_size // 10)
        self._first = self._portion if config.concurrent else config.buffer_size
        self._held: list[list[tuple[Length, Cut]]] = [[] for _ in range(edges.count)]
        # How full a bucket was when it could not give a batch to each process.
        self._too_few = [0] * edges.count
        self._count = 0
        self._at_end = self._overfull = False

    def batches(self) -> Iterator[list[Cut]]:
        """All cuts in batches, `world_size` of them from a bucket at a time; the rest at the end goes by length."""
        try:
            self._take(self._first)
            while (group := self._next_group()) is not None:
                yield from group
                drawn = sum(map(len, group))
                self._count -= drawn
                self._take(min(3 * drawn, self._buffer_size - self._count))
            for group in self._rest():
                yield from group
        finally:
            close = getattr(self._cuts, "close", None)
            if close is not None:
                close()

    def _take(self, wanted: int) -> None:
        before = self._count
        for cut in islice(self._cuts, max(0, wanted)):
            length = self._edges.length(cut)
            self._held[self._edges.bucket(length)].append((length, cut))
            self._count += 1
        self._at_end = self._at_end or self._count - before < wanted

    def _next_group(self) -> list[list[Cut]] | None:
        """Full batches of one bucket, reading on until a bucket has them; None at the end."""
        while True:
            order = list(range(len(self._held)))
            if self._rng is not None:
                self._rng.shuffle(order)
            for index in order:
                if len(self._held[index]) > self._too_few[index]:
                    group = self._group(index)
                    if group is not None:
                        return group
            if self._at_end:
                return None
            # A small beginning, or a small buffer, must not lead to small batches.
            room = self._buffer_size - self._count
            if room <= 0 and not self._overfull:
                self._overfull = True
                logger.info(
                    "buffer_size %d is too small for %d full batches of one bucket; more is held",
                    self._buffer_size,
                    self._world_size,
                )
            self._take(min(self._portion, room) if room > 0 else self._portion)

    def _group(self, index: int) -> list[list[Cut]] | None:
        """A full batch for each process out of one bucket, or None, leaving it as it was but for its order."""
        bucket = self._held[index]
        before = len(bucket)
        drawn: list[list[tuple[Length, Cut]]] = []
        while len(drawn) < self._world_size:
            batch, full = self._batch(bucket)
            drawn.append(batch)
            if not full:
                for taken in drawn:
                    bucket.extend(taken)
                self._too_few[index] = before
                return None
        self._too_few[index] = 0
        return [[cut for _, cut in batch] for batch in drawn]

    def _batch(self, bucket: list[tuple[Length, Cut]]) -> tuple[list[tuple[Length, Cut]], bool]:
        """Draws cuts until no more fit; tells whether that was for want of room, not of cuts."""
        batch: list[tuple[Length, Cut]] = []
        longest = (0.0, 0)
        while bucket:
            at = len(bucket) - 1 if self._rng is not None else 0
            if self._rng is not None:
                other = self._rng.randrange(len(bucket))
                bucket[at], bucket[other] = bucket[other], bucket[at]
            length, _ = bucket[at]
            longest = (max(longest[0], length[0]), max(longest[1], length[1]))
            if batch and len(batch) >= self._edges.capacity(longest):
                return batch, True
            batch.append(bucket.pop(at))
            if len(batch) >= self._edges.capacity(longest):
                return batch, True
        return batch, False

    def _rest(self) -> Iterator[list[list[Cut]]]:
        """What no longer fills the batches of a bucket, in order of length, dealt out evenly."""
        rest = [item for bucket in self._held for item in bucket]
        start = 0
        while start < len(rest):
            stop, longest = start, (0.0, 0)
            while stop < len(rest):
                length = rest[stop][0]
                longest = (max(longest[0], length[0]), max(longest[1], length[1]))
                if stop > start and stop - start >= self._world_size * self._edges.capacity(longest):
                    break
                stop += 1
            cuts = [cut for _, cut in rest[start:stop]]
            # Every process needs one; some are seen twice where there are too few.
            missing = self._world_size - len(cuts)
            cuts += [cuts[n % len(cuts)].with_id(f"{cuts[n % len(cuts)].id}_dup{n}") for n in range(missing)]
            yield [cuts[rank :: self._world_size] for rank in range(self._world_size)]
            start = stop


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
