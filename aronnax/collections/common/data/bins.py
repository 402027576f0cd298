"""Duration buckets: where to draw their edges, and what they save."""

from __future__ import annotations

from collections.abc import Sequence

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


def estimate_bins_2d(
    durations: Sequence[float], tokens: Sequence[int], buckets: int, sub_buckets: int
) -> list[tuple[float, int]]:
    """Upper [seconds, tokens] edges: duration buckets as in `estimate_bins`, each cut again by tokens."""
    lengths, counts = np.asarray(durations, dtype=np.float64), np.asarray(tokens, dtype=np.int64)
    edges = estimate_bins(durations, buckets)
    result: list[tuple[float, int]] = []
    for low, high in zip([-1.0, *edges], edges):
        inside = counts[(lengths > low) & (lengths <= high)]
        if inside.size:
            result.extend((high, int(edge)) for edge in estimate_bins(list(inside + 1e-9), sub_buckets))
    return result


def padding_share(durations: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding when the recordings of each batch (indices) are padded to its longest, 0 to 1."""
    lengths = np.asarray(durations, dtype=np.float64)
    padded = sum(lengths[list(batch)].max() * len(batch) for batch in batches if len(batch))
    used = sum(lengths[list(batch)].sum() for batch in batches if len(batch))
    return float(1.0 - used / padded) if padded else 0.0
