"""Several streams of cuts as one: each once, or drawn from for ever in proportion to tempered weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

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
