"""`aronnax bins`: duration buckets for a data set, ready to paste into a training configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aronnax.core.errors import ManifestError, MissingExtraError


def bins(
    data: Annotated[
        list[str], typer.Argument(help="NeMo manifests, Lhotse cuts (.jsonl.gz) or shar folders.")
    ],
    buckets: Annotated[int, typer.Option(help="Number of buckets.")] = 30,
    batch_duration: Annotated[float, typer.Option(help="Seconds in a batch, padding counted.")] = 120.0,
    min_duration: Annotated[float, typer.Option(help="Leave out shorter recordings (seconds).")] = 0.1,
    max_duration: Annotated[float | None, typer.Option(help="Leave out longer recordings (seconds).")] = None,
    limit: Annotated[int, typer.Option(help="Look at no more than so many recordings.")] = 1_000_000,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder: makes 2-D buckets.")] = None,
    sub_buckets: Annotated[int, typer.Option(help="With --tokenizer: buckets by tokens in each.")] = 2,
) -> None:
    """Estimate duration buckets for a data set.

    The edges part the total duration into equal shares; what they save in padding is printed beside them.
    """
    try:
        from aronnax.collections.common.data import measuring
    except ImportError as error:
        raise MissingExtraError(error.name or "lhotse", "train", "aronnax bins") from None
    lengths, counts = measuring.measure(data, tokenizer, limit)
    inside = [
        i
        for i, length in enumerate(lengths)
        if length >= min_duration and (max_duration is None or length <= max_duration)
    ]
    if not inside:
        raise ManifestError(f"{', '.join(data)}: none of {len(lengths)} recordings lies within the limits")
    durations = [lengths[i] for i in inside]
    hours = sum(durations) / 3600
    print(f"# {len(durations)} recordings, {hours:.2f} h, {min(durations):.2f} to {max(durations):.2f} s")
    if len(inside) < len(lengths):
        print(f"# {len(lengths) - len(inside)} outside the limits were left out")
    if tokenizer is None:
        print(measuring.report_1d(durations, buckets, batch_duration))
    else:
        print(
            measuring.report_2d(durations, [counts[i] for i in inside], buckets, sub_buckets, batch_duration)
        )
