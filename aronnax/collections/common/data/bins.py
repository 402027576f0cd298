"""Duration buckets: where to draw their edges, and what they save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def estimate_bins(durations: Sequence[float], buckets: int) -> list[float]:
    """Upper edges, in seconds, of buckets that hold equal shares of the total duration; the last is the longest.

    Fewer edges come back where durations are too few or too alike to tell `buckets` of them apart.

    Raises:
        ValueError: there is no duration, or no bucket.
    """
    if len(durations) == 0 or buckets < 1:
        raise ValueError(f"{len(durations)} durations cannot fill {buckets} buckets")
    ordered = np.sort(np.asarray(durations, dtype=np.float64))
    cumulative = np.cumsum(ordered)
    shares = cumulative[-1] * np.arange(1, buckets + 1) / buckets
    at = np.minimum(np.searchsorted(cumulative, shares), len(ordered) - 1)
    return [float(edge) for edge in np.unique(ordered[at])]


def fewer_buckets(found: int, asked: int) -> str | None:
    """What to say where recordings are too alike for as many buckets as were asked for.

    >>> fewer_buckets(3, 4)
    '3 buckets came out of the 4 asked for: the recordings are too alike for more'
    >>> fewer_buckets(4, 4)
    """
    if found >= asked:
        return None
    noun = "bucket" if found == 1 else "buckets"
    return f"{found} {noun} came out of the {asked} asked for: the recordings are too alike for more"


@dataclass(frozen=True)
class Bins2D:
    """Buckets by seconds and tokens, and what would cost too much memory in them."""

    edges: list[tuple[float, int]]
    """Upper [seconds, tokens] of each bucket, rising."""
    max_tokens_per_second: list[float]
    """The most of any recording in each bucket that is no outlier."""
    outliers: list[int]
    """Indices of the recordings whose tokens per second are outliers."""

    @property
    def rate_limits(self) -> list[float]:
        """`max_tokens_per_second` with two decimals, rounded up by more than the error of single precision."""
        return [math.ceil(rate * (1 + 1e-6) * 100) / 100 for rate in self.max_tokens_per_second]


def estimate_bins_2d(
    durations: Sequence[float],
    tokens: Sequence[int],
    buckets: int,
    sub_buckets: int,
    *,
    max_duration: float | None = None,
    outlier: float = 4.0,
) -> Bins2D:
    """Buckets of equal total duration, each cut again into buckets of equal total tokens.

    Where durations are so alike that several buckets end at the same one, they become one with that many times
    `sub_buckets`. The result is that of NeMo's `estimate_duration_bins_2d.py` ("Training and Inference Efficiency of
    Encoder-Decoder Speech Models", arXiv 2503.05931), single precision and rounding to milliseconds included.

    Args:
        max_duration: Upper edge of the last buckets in seconds; by default the longest duration.
        outlier: Recordings whose tokens per second lie so many standard deviations above the mean of their
            duration bucket are left out.

    Raises:
        ValueError: there is no duration, or no bucket, or not as many tokens as durations.
    """
    if len(durations) == 0 or buckets < 1 or sub_buckets < 1 or len(durations) != len(tokens):
        raise ValueError(
            f"{len(durations)} durations and {len(tokens)} token counts cannot fill {buckets} x {sub_buckets} buckets"
        )
    lengths = np.asarray(durations, dtype=np.float32)
    counts = np.asarray(tokens, dtype=np.int32)
    order = np.lexsort((counts, lengths))
    lengths, counts = lengths[order], counts[order]
    last = lengths[-1].round(3) if max_duration is None else np.float32(max_duration)
    starts = _equal_shares(lengths, buckets)
    ends = [(lengths[start].round(3), start) for start in starts] + [(last, len(lengths))]
    result = Bins2D([], [], [])
    first, merged = 0, 1
    for (edge, end), (following, _) in zip(ends, [*ends[1:], (None, 0)]):
        if following is not None and edge == following:
            merged += 1
            continue
        kept, rates = _without_outliers(lengths[first:end], counts[first:end], outlier)
        _cut_by_tokens(result, float(edge), counts[first:end][kept], rates[kept], sub_buckets * merged)
        result.outliers.extend(int(index) for index in order[first:end][~kept])
        first, merged = end, 1
    return result


def _equal_shares(ordered: np.ndarray, parts: int) -> list[int]:
    """Where each part but the first begins, when a part ends as soon as it holds more than its share."""
    share, start = ordered.sum() / parts, 0
    starts: list[int] = []
    while True:
        # From its first element on, in the data's own precision.
        held = np.cumsum(ordered[start:], dtype=ordered.dtype if ordered.dtype.kind == "f" else np.int64)
        full = int(np.searchsorted(held, share, side="right"))
        if full + 1 >= len(held):
            return starts
        start += full + 1
        starts.append(start)


def _without_outliers(
    lengths: np.ndarray, counts: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which recordings are not far above the others in tokens per second, and those rates."""
    rates = counts / lengths
    spread = np.std(rates)
    if spread == 0:
        return np.ones(len(rates), dtype=bool), rates
    return (rates - np.mean(rates)) / spread <= threshold, rates


def _cut_by_tokens(
    result: Bins2D, edge: float, counts: np.ndarray, rates: np.ndarray, sub_buckets: int
) -> None:
    if not len(counts):
        return
    ordered = np.sort(counts)
    for most in [*ordered[_equal_shares(ordered, sub_buckets)], ordered[-1]]:
        result.edges.append((round(edge, 3), int(most)))
        result.max_tokens_per_second.append(float(rates.max()))


def padding_share(durations: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding when the recordings of each batch (indices) are padded to its longest, 0 to 1."""
    lengths = np.asarray(durations, dtype=np.float64)
    padded = sum(lengths[list(batch)].max() * len(batch) for batch in batches if len(batch))
    used = sum(lengths[list(batch)].sum() for batch in batches if len(batch))
    return float(1.0 - used / padded) if padded else 0.0
