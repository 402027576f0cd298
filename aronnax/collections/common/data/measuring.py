"""Durations and token counts of a data set, and what buckets would save."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d, padding_share
from aronnax.collections.common.data.config import InputConfig, read_inputs
from aronnax.collections.common.data.filters import cut_language, cut_text
from aronnax.collections.common.data.manifest import read_manifest
from aronnax.collections.common.data.nemo_cuts import expand
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sources import Inputs
from aronnax.collections.common.text import Tokenizer, tokenizer_from_assets
from aronnax.core.errors import ManifestError


def measure(data: Sequence[str], tokenizer: Path | None, limit: int) -> tuple[list[float], list[int]]:
    """Seconds and tokens of up to `limit` recordings; without a tokenizer no tokens are counted.

    Raises:
        ManifestError: nothing was found, or a manifest is malformed.
    """
    cutter = None if tokenizer is None else read_tokenizer(tokenizer)
    lengths: list[float] = []
    counts: list[int] = []
    described = (item for source in read_inputs(data, "DATA") for item in _describe(source))
    for seconds, text, language in islice(described, limit):
        lengths.append(seconds)
        if cutter is not None:
            counts.append(len(cutter.encode(text or "", language)))
    if not lengths:
        raise ManifestError(f"{', '.join(data)}: no recording was found")
    return lengths, counts


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose files lie in a folder, as `aronnax tokenizer` writes them."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    return tokenizer_from_assets(files, where=str(folder))


def report_1d(durations: Sequence[float], buckets: int, batch_duration: float) -> str:
    """YAML for `data.batching`, and the padding with and without it."""
    edges = [round(edge, 3) for edge in estimate_bins(durations, buckets)][:-1]
    before = padding_share(durations, simulate(durations, [], batch_duration))
    after = padding_share(durations, simulate(durations, edges, batch_duration))
    return (
        f"# padding in batches of {batch_duration:g} s: {before:.1%} without buckets, {after:.1%} with these\n"
        "batching:\n"
        f"  batch_duration: {batch_duration:g}\n"
        f"  bucket_duration_bins: [{', '.join(f'{edge:g}' for edge in edges)}]"
    )


def report_2d(
    durations: Sequence[float], tokens: Sequence[int], buckets: int, sub_buckets: int, batch_duration: float
) -> str:
    """YAML for `data.batching` with buckets by seconds and tokens and the batch sizes that fill `batch_duration`."""
    edges = estimate_bins_2d(durations, tokens, buckets, sub_buckets)
    edges = [(round(seconds + 5e-4, 3), count) for seconds, count in edges]
    sizes = [max(1, int(batch_duration // seconds)) for seconds, _ in edges]
    pairs = ", ".join(f"[{seconds:g}, {count}]" for seconds, count in edges)
    return (
        "batching:\n"
        f"  bucket_duration_bins: [{pairs}]\n"
        f"  bucket_batch_sizes: [{', '.join(map(str, sizes))}]  # {batch_duration:g} s each"
    )


def simulate(durations: Sequence[float], edges: Sequence[float], batch_duration: float) -> list[list[int]]:
    """Batches (indices) that a random order gives, closed when one more would exceed `batch_duration`."""
    from bisect import bisect_left

    order = list(range(len(durations)))
    random.Random(0).shuffle(order)
    open_batches: list[list[int]] = [[] for _ in range(len(edges) + 1)]
    longest = [0.0] * (len(edges) + 1)
    batches: list[list[int]] = []
    for index in order:
        bucket = bisect_left(edges, durations[index])
        grown = max(longest[bucket], durations[index])
        if open_batches[bucket] and grown * (len(open_batches[bucket]) + 1) > batch_duration:
            batches.append(open_batches[bucket])
            open_batches[bucket], grown = [], durations[index]
        open_batches[bucket].append(index)
        longest[bucket] = grown
    return batches + [batch for batch in open_batches if batch]


def _describe(source: InputConfig) -> Iterator[tuple[float, str | None, str | None]]:
    if source.type == "nemo_manifest":
        for path in expand(source.path):
            for entry in read_manifest(path):
                yield _seconds(entry.audio_filepath, entry.offset, entry.duration), entry.text, entry.language
        return
    for cut in Inputs([source], Dropped(), shuffle=False, seed=0):
        yield cut.duration, cut_text(cut), cut_language(cut)


def _seconds(path: str, offset: float, duration: float | None) -> float:
    from aronnax.collections.common.audio.reading import probe

    return duration if duration is not None else max(0.0, probe(path).seconds - offset)
