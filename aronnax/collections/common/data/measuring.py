"""Durations and token counts of a data set, and what buckets would save."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d, fewer_buckets, padding_share
from aronnax.collections.common.data.config import BatchingConfig, InputConfig, read_inputs
from aronnax.collections.common.data.filters import cut_language, cut_text
from aronnax.collections.common.data.limits import Waste
from aronnax.collections.common.data.manifest import read_manifest
from aronnax.collections.common.data.nemo_cuts import expand
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sampling import Edges
from aronnax.collections.common.data.slots import cut_slots, read_slots
from aronnax.collections.common.data.sources import Inputs
from aronnax.collections.common.text import read_tokenizer
from aronnax.core.errors import ManifestError

Count = Callable[[str, str | None, Mapping[str, Any]], int]
"""Tokens of a text in a language with other fields of its line."""


def measure(
    data: Sequence[str], count: Count | None, limit: int, seen: Callable[[], None] = lambda: None
) -> tuple[list[float], list[int]]:
    """Seconds and tokens of up to `limit` recordings; without `count` no tokens. `seen` is called for each.

    Raises:
        ManifestError: nothing was found, or a manifest is malformed.
    """
    lengths: list[float] = []
    counts: list[int] = []
    described = (item for source in read_inputs(data, "DATA") for item in _describe(source))
    for seconds, text, language, fields in islice(described, limit):
        lengths.append(seconds)
        if count is not None:
            counts.append(count(text or "", language, fields))
        seen()
    if not lengths:
        raise ManifestError(f"{', '.join(data)}: no recording was found")
    return lengths, counts


def token_count(folder: Path, prompt: str | None = None, extra: int = 0) -> Count:
    """Counts tokens with the tokenizer in `folder`: of the text, or of a prompt's slots, the text and its end.

    A recording without languages counts as one in the first language the tokenizer knows.
    """
    cutter = read_tokenizer(folder, "--tokenizer")
    if prompt is None:
        return lambda text, language, fields: (
            len(cutter.encode(text, fields.get("target_lang", language))) + extra
        )
    from aronnax.collections.common.text.prompts import CanaryTokenizer, prompt_format

    canary, template = CanaryTokenizer(cutter), prompt_format(prompt)
    known = {*template.slots, *template.aliases}

    def prompted(text: str, language: str | None, fields: Mapping[str, Any]) -> int:
        slots = {name: value for name, value in read_slots(fields).items() if name in known}
        language = language if language in canary.languages else canary.languages[0]
        source = slots.get("source_lang", language)
        defaults = {"source_lang": source, "target_lang": slots.get("target_lang", source)}
        made = template.encode(canary, slots, text, defaults=defaults)
        return len(made.prompt) + len(made.answer) + extra

    return prompted


def report_1d(durations: Sequence[float], buckets: int, batch_duration: float) -> str:
    """YAML for `data.batching`, and the padding with and without it."""
    *edges, _ = sorted({round(edge, 3) for edge in estimate_bins(durations, buckets)})
    before = padding_share(durations, simulate(durations, [], batch_duration))
    after = padding_share(durations, simulate(durations, edges, batch_duration))
    fewer = fewer_buckets(len(edges) + 1, buckets)
    return (
        f"{_comment(fewer)}# padding in batches of {batch_duration:g} s: {before:.1%} without buckets, "
        f"{after:.1%} with these\n"
        "batching:\n"
        f"  batch_duration: {batch_duration:g}\n"
        f"  bucket_duration_bins: [{', '.join(f'{edge:g}' for edge in edges)}]"
    )


def report_2d(
    durations: Sequence[float],
    tokens: Sequence[int],
    buckets: int,
    sub_buckets: int,
    batch_duration: float,
    outlier: float = 4.0,
) -> tuple[str, Waste, Waste]:
    """YAML for `data.batching` with buckets by seconds and tokens, and the padding without and with them.

    The batch sizes are those that fill `batch_duration`; `aronnax bins --fit` finds the largest that memory allows.
    """
    found = estimate_bins_2d(durations, tokens, buckets, sub_buckets, outlier=outlier)
    rates = dict(zip(found.edges, found.rate_limits))
    longest, last = max(durations), found.edges[-1][0]
    # Edges are rounded; the longest recording must not fall off the end.
    edges = [(ceil(longest * 1000) / 1000 if edge[0] == last else edge[0], edge[1]) for edge in rates]
    sizes = [max(1, int(batch_duration // seconds)) for seconds, _ in edges]
    config = BatchingConfig(
        bucket_duration_bins=tuple(edges),
        bucket_batch_sizes=tuple(sizes),
        bucket_max_tokens_per_second=tuple(rates.values()),
    )
    kept = sorted(set(range(len(durations))) - set(found.outliers))
    seconds, counts = [durations[index] for index in kept], [tokens[index] for index in kept]
    shares = {
        "without buckets": simulate(seconds, [], batch_duration),
        "with as many 1-D buckets": simulate(seconds, estimate_bins(seconds, buckets)[:-1], batch_duration),
        "with these": simulate_2d(seconds, counts, config),
    }
    waste = {
        name: Waste(padding_share(seconds, batches), padding_share(counts, batches), len(batches))
        for name, batches in shares.items()
    }
    lines = [
        f"# {len(found.outliers)} left out: tokens per second more than {outlier:g} standard deviations above "
        "the mean of their length"
    ]
    fewer = fewer_buckets(len(edges), buckets * sub_buckets)
    lines += [
        f"# padding {name}: {one.seconds:.1%} of seconds, {one.tokens:.1%} of tokens"
        for name, one in waste.items()
    ]
    pairs = ", ".join(f"[{seconds:.3f}, {count}]" for seconds, count in edges)
    lines += [
        "batching:",
        f"  bucket_duration_bins: [{pairs}]",
        f"  bucket_batch_sizes: [{', '.join(map(str, sizes))}]  # {batch_duration:g} s each",
        "  bucket_max_tokens_per_second: "
        f"[{', '.join(f'{rate:.2f}' for rate in config.bucket_max_tokens_per_second)}]",
    ]
    return _comment(fewer) + "\n".join(lines), waste["without buckets"], waste["with these"]


def _comment(said: str | None) -> str:
    return "" if said is None else f"# {said}\n"


def simulate_2d(durations: Sequence[float], tokens: Sequence[int], config: BatchingConfig) -> list[list[int]]:
    """Batches (indices) that a random order gives in buckets of fixed sizes; what fits none is left out."""
    edges = Edges(config.bucket_duration_bins, config)
    order = list(range(len(durations)))
    random.Random(0).shuffle(order)
    held: list[list[int]] = [[] for _ in range(edges.count)]
    batches: list[list[int]] = []
    for index in order:
        bucket = edges.bucket((durations[index], tokens[index]))
        if bucket < edges.count:
            held[bucket].append(index)
            if len(held[bucket]) == config.bucket_batch_sizes[bucket]:
                batches.append(held[bucket])
                held[bucket] = []
    return batches + [batch for batch in held if batch]


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


def _describe(source: InputConfig) -> Iterator[tuple[float, str | None, str | None, Mapping[str, Any]]]:
    if source.type == "nemo_manifest":
        for path in expand(source.path):
            for entry in read_manifest(path):
                seconds = _seconds(entry.audio_filepath, entry.offset, entry.duration)
                yield seconds, entry.text, entry.language, entry.extra
        return
    for cut in Inputs([source], Dropped(), shuffle=False, seed=0):
        yield cut.duration, cut_text(cut), cut_language(cut), cut_slots(cut)


def _seconds(path: str, offset: float, duration: float | None) -> float:
    from aronnax.collections.common.audio.reading import probe

    return duration if duration is not None else max(0.0, probe(path).seconds - offset)
