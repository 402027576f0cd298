"""Several streams of cuts, or of batches, as one: each once, or drawn from for ever in proportion to weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from aronnax.core.errors import ManifestError


def tempered(weights: Sequence[float], temperature: float) -> list[float]:
    """Shares that weights stand for: w_i^t / sum_j w_j^t; t = 1 keeps their proportions, 0 makes them equal.

    Example:
        >>> [round(share, 4) for share in tempered([197, 2159], 1.0)]
        [0.0836, 0.9164]
        >>> tempered([197, 2159], 0.0)
        [0.5, 0.5]
    """
    powers = [weight**temperature for weight in weights]
    return [power / sum(powers) for power in powers]


class Endless:
    """Draws from streams for ever in proportion to their shares; one that ends is begun anew.

    The order of draws depends on `seed` and nothing else.
    """

    def __init__(self, streams: Sequence[Iterable[Cut]], shares: Sequence[float], seed: str) -> None:
        self._streams, self._shares, self._seed = list(streams), list(shares), seed

    def __iter__(self) -> Iterator[Cut]:
        rng = random.Random(self._seed)
        running = [_repeat(stream) for stream in self._streams]
        numbers = range(len(running))
        while True:
            (chosen,) = rng.choices(numbers, weights=self._shares)
            yield next(running[chosen])


class Interleaved:
    """Every stream once, drawn from in proportion to their shares until each has ended."""

    def __init__(self, streams: Sequence[Iterable[Cut]], shares: Sequence[float], seed: str) -> None:
        self._streams, self._shares, self._seed = list(streams), list(shares), seed

    def __iter__(self) -> Iterator[Cut]:
        rng = random.Random(self._seed)
        running = [(iter(stream), share) for stream, share in zip(self._streams, self._shares)]
        while running:
            (chosen,) = rng.choices(range(len(running)), weights=[share for _, share in running])
            cut = next(running[chosen][0], None)
            if cut is None:
                del running[chosen]
            else:
                yield cut


class RoundRobin:
    """Batches of several samplers for ever: at each step one of them is drawn by weight and gives the batch.

    The order of draws depends on `seed` and nothing else, so that the processes of a training, whose samplers differ
    by rank alone, are at the same kind of batch at every step. A sampler that ends is opened for its next pass.

    Args:
        streams: By name, what opens the sampler of a pass of that number.
        weights: One for each.
        seed: Of the draws.
    """

    def __init__(
        self, streams: Mapping[str, Callable[[int], Any]], weights: Sequence[float], seed: str
    ) -> None:
        self._streams, self._weights, self._seed = dict(streams), list(weights), seed
        self._running: list[Generator[CutSet, None, None]] = []

    def __iter__(self) -> Iterator[CutSet]:
        self.close()
        rng = random.Random(self._seed)
        self._running = [_passes(name, open_pass) for name, open_pass in self._streams.items()]
        numbers = range(len(self._running))
        while True:
            (chosen,) = rng.choices(numbers, weights=self._weights)
            yield next(self._running[chosen])

    def close(self) -> None:
        """Stop reading ahead."""
        for running in self._running:
            running.close()
        self._running = []


def _passes(name: str, open_pass: Callable[[int], Any]) -> Generator[CutSet, None, None]:
    for number in count():
        sampler, found = open_pass(number), False
        try:
            for batch in sampler:
                found = True
                yield batch
        finally:
            sampler.close()
        if not found:
            raise ManifestError(f"data.streams.{name} holds nothing that can be trained on")


class Chain:
    """Every stream once, one after the other."""

    def __init__(self, streams: Sequence[Iterable[Cut]]) -> None:
        self._streams = list(streams)

    def __iter__(self) -> Iterator[Cut]:
        for stream in self._streams:
            yield from stream


def _repeat(stream: Iterable[Cut]) -> Iterator[Cut]:
    while True:
        found = False
        for cut in stream:
            found = True
            yield cut
        if not found:
            raise ManifestError("an input with a weight holds no recording that can be read")
