"""What the batch-size finder asks of the data: the longest recordings of each bucket, and the padding of batches."""

from __future__ import annotations

import math
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


def look_at(data: Any, limit: int) -> Seen:
    """The first `limit` training recordings of a data module; no audio is read.

    Raises:
        ManifestError: there is none.
    """
    cuts = list(islice(data.cuts(), limit + 1))
    complete, cuts = len(cuts) <= limit, cuts[:limit]
    if not cuts:
        raise ManifestError(f"no training recording passes data.filters: {data.dropped}")
    tokens = [count_tokens(cut, data.tokenizer) for cut in cuts]
    noted = [note_number(cut, count) for cut, count in zip(cuts, tokens)]
    return Seen(noted, [cut.duration for cut in cuts], tokens, complete)


def edges_for_fixed_sizes(
    batching: BatchingConfig, seen: Seen, *, two_dimensional: bool, sub_buckets: int, longest: float | None
) -> list[Bin]:
    """Upper edges that every recording seen lies below: the configuration's own, or estimated.

    `longest` is how long a recording may become that was not seen, where that is known.
    """
    given = list(batching.bucket_duration_bins)
    top = max([*seen.seconds, *([longest] if longest and not seen.complete else [])])
    if given and batching.two_dimensional == (two_dimensional or batching.two_dimensional):
        if isinstance(given[-1], tuple) or batching.bucket_batch_sizes:
            return given
        return _rising([*(edge for edge in given if isinstance(edge, float)), top])
    if not two_dimensional:
        return _rising([*estimate_bins(seen.seconds, batching.buckets)[:-1], top])
    pairs = estimate_bins_2d(seen.seconds, seen.tokens, batching.buckets, sub_buckets).edges
    last = pairs[-1][0]
    raised = {(_up(top if seconds == last else seconds), max(1, tokens)) for seconds, tokens in pairs}
    return sorted(raised)


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


def covered(seen: Seen, edges: Sequence[Bin]) -> list[bool]:
    """Whether each recording lies below some edge; in 2-D the outliers in tokens do not."""
    pairs = [edge if isinstance(edge, tuple) else (edge, math.inf) for edge in edges]
    return [
        any(s <= seconds and t <= tokens for seconds, tokens in pairs)
        for s, t in zip(seen.seconds, seen.tokens)
    ]


@dataclass(frozen=True)
class Waste:
    """Shares of batches that are padding, 0 to 1, and how many batches there are."""

    seconds: float
    tokens: float
    batches: int


def waste(seen: Seen, batching: BatchingConfig) -> Waste:
    """What the training's own sampler would pad, were these recordings batched so."""
    batching = replace(batching, concurrent=False)
    cuts = seen.cuts
    if batching.two_dimensional:
        fits = covered(seen, batching.bucket_duration_bins)
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
