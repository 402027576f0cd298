"""What the batch-size finder asks of the data: the longest recordings of each bucket, and the padding of batches."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from lhotse.cut import Cut

from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d
from aronnax.collections.common.data.config import BatchingConfig, Bin
from aronnax.collections.common.data.filters import count_tokens, note_number
from aronnax.collections.common.data.sampling import BucketSampler, bins_of
from aronnax.core.errors import ManifestError


@dataclass(frozen=True)
class Seen:
    """Training recordings as they reach the buckets: mixed, perturbed, filtered; each with its tokens noted."""

    cuts: list[Cut]
    seconds: list[float]
    tokens: list[int]
    complete: bool
    """Whether these are all of one pass."""


def look_at(data: Any, limit: int, stream: str | None = None) -> Seen:
    """The first `limit` training recordings of a data module, or of one of its streams; no audio is read.

    Raises:
        ManifestError: there is none.
    """
    cuts = list(islice(data.cuts(stream=stream), limit + 1))
    complete, cuts = len(cuts) <= limit, cuts[:limit]
    if not cuts:
        raise ManifestError(f"no training recording passes data.filters: {data.dropped}")
    tokens = [count_tokens(cut, data.tokenizer) for cut in cuts]
    noted = [note_number(cut, count) for cut, count in zip(cuts, tokens)]
    return Seen(noted, [cut.duration for cut in cuts], tokens, complete)


@dataclass(frozen=True)
class Parting:
    """Where buckets end."""

    edges: list[Bin]
    """Upper edges, rising, no two alike."""
    rates: tuple[float, ...]
    """The most tokens a second of each; none in 1-D."""
    asked: int
    """How many buckets were asked for."""


def edges_for_fixed_sizes(
    batching: BatchingConfig, seen: Seen, *, two_dimensional: bool, sub_buckets: int, longest: float | None
) -> Parting:
    """Upper edges that every recording seen lies below.

    They are the configuration's own, and one for what lies beyond them, or estimated, outliers in tokens left out;
    equal ones become one. `longest` is how long a recording may become that was not seen, where that is known.
    """
    given = list(batching.bucket_duration_bins)
    top = max([*seen.seconds, *([longest] if longest and not seen.complete else [])])
    if given and batching.two_dimensional == (two_dimensional or batching.two_dimensional):
        end = given[-1]
        if isinstance(end, tuple) or batching.closed or top <= end:
            return _distinct(given, batching.bucket_max_tokens_per_second, len(given))
        # Beyond the last edge is one bucket more, which ends with the longest recording now.
        return _distinct([*given, _up(top)], (), len(given) + 1)
    if not two_dimensional:
        estimated = estimate_bins(seen.seconds, batching.buckets)
        return Parting(_rising([*estimated[:-1], top]), (), batching.buckets)
    found = estimate_bins_2d(seen.seconds, seen.tokens, batching.buckets, sub_buckets)
    last = found.edges[-1][0]
    raised = [(_up(top if seconds == last else seconds), max(1, tokens)) for seconds, tokens in found.edges]
    return _distinct(raised, found.rate_limits, batching.buckets * sub_buckets)


def _distinct(edges: Sequence[Bin], rates: Sequence[float], asked: int) -> Parting:
    """Equal edges are one, with the greater of their rates."""
    if not rates:
        return Parting(list(dict.fromkeys(edges)), (), asked)
    greatest: dict[Bin, float] = {}
    for edge, rate in zip(edges, rates):
        greatest[edge] = max(rate, greatest.get(edge, 0.0))
    return Parting(list(greatest), tuple(greatest.values()), asked)


def _rising(edges: Iterable[float]) -> list[Bin]:
    return [*sorted({_up(edge) for edge in edges})]


def _up(seconds: float) -> float:
    """The next whole millisecond, so that the longest recording stays below its edge."""
    return math.ceil(round(seconds * 1000, 6)) / 1000


def most_tokens(edges: Sequence[Bin], seen: Seen) -> list[int]:
    """The tokens of the wordiest recording of each bucket and those below it."""
    most, counts, at = 1, [], 0
    ordered = sorted(zip(seen.seconds, seen.tokens))
    for edge in edges:
        if isinstance(edge, tuple):
            counts.append(edge[1])
            continue
        while at < len(ordered) and ordered[at][0] <= edge:
            most = max(most, ordered[at][1])
            at += 1
        counts.append(most)
    return counts


def covered(seen: Seen, edges: Sequence[Bin], rates: Sequence[float] = ()) -> list[bool]:
    """Whether each recording lies below some edge and below the most tokens a second of its length."""
    pairs = [edge if isinstance(edge, tuple) else (edge, math.inf) for edge in edges]
    ends = [seconds for seconds, _ in pairs]

    def inside(seconds: float, tokens: int) -> bool:
        if rates and tokens / seconds > rates[min(bisect_left(ends, seconds), len(ends) - 1)]:
            return False
        return any(seconds <= end and tokens <= most for end, most in pairs)

    return [inside(seconds, tokens) for seconds, tokens in zip(seen.seconds, seen.tokens)]


@dataclass(frozen=True)
class Waste:
    """Shares of batches that are padding, 0 to 1, and how many batches there are."""

    seconds: float
    tokens: float
    batches: int


def more_padding(before: Waste, after: Waste) -> str | None:
    """What to say where new batches pad more than those before, by a tenth of a percent at least."""
    pairs = (("seconds", before.seconds, after.seconds), ("tokens", before.tokens, after.tokens))
    worse = [f"{new:.1%} of {name}" for name, old, new in pairs if round(new, 3) > round(old, 3)]
    if not worse:
        return None
    return (
        f"the new batches pad more than the configuration's own ({' and '.join(worse)}): train both for a while to"
        " see which is faster, or try other data.batching.buckets"
    )


def waste(seen: Seen, batching: BatchingConfig) -> Waste:
    """What the training's own sampler would pad, were these recordings batched so."""
    batching = replace(batching, concurrent=False)
    cuts = seen.cuts
    if batching.two_dimensional:
        fits = covered(seen, batching.bucket_duration_bins, batching.bucket_max_tokens_per_second)
        cuts = [cut for cut, inside in zip(cuts, fits) if inside]
    sampler = BucketSampler(
        cuts, bins_of(batching, cuts), batching, shuffle=True, seed=0, world_size=1, rank=0
    )
    totals = [0.0, 0.0, 0.0, 0.0]
    batches = 0
    for batch in sampler:
        seconds = [cut.duration for cut in batch]
        tokens = [count_tokens(cut, None) if cut.supervisions else 0 for cut in batch]
        for index, lengths in enumerate((seconds, tokens)):
            totals[2 * index] += sum(lengths)
            totals[2 * index + 1] += max(lengths) * len(lengths)
        batches += 1
    return Waste(1 - totals[0] / max(totals[1], 1e-9), 1 - totals[2] / max(totals[3], 1e-9), batches)
