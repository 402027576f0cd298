"""`aronnax bins`: duration buckets for a data set, ready to paste into a training configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.terminal import bar
from aronnax.cli.waste_plot import draw_waste, need_matplotlib
from aronnax.core.errors import ManifestError, MissingExtraError, OptionError


def bins(
    data: Annotated[
        list[str] | None,
        Argument(help="NeMo manifests, Lhotse cuts (.jsonl.gz) or shar folders; with --fit, overrides too."),
    ] = None,
    buckets: Annotated[int, Option(help="Number of buckets.")] = 30,
    batch_duration: Annotated[float, Option(help="Seconds in a batch, padding counted.")] = 120.0,
    min_duration: Annotated[float, Option(help="Leave out shorter recordings (seconds).")] = 0.1,
    max_duration: Annotated[float | None, Option(help="Leave out longer recordings (seconds).")] = None,
    limit: Annotated[int, Option(help="Look at no more than so many recordings.")] = 1_000_000,
    tokenizer: Annotated[Path | None, Option(help="Tokenizer folder, for 2-D buckets.")] = None,
    sub_buckets: Annotated[int, Option(help="In 2-D: buckets by tokens in each.")] = 2,
    prompt: Annotated[
        str | None, Option(help="In 2-D: count the tokens of this prompt too (canary, canary2).")
    ] = None,
    extra_tokens: Annotated[int, Option(help="In 2-D: tokens around each text.")] = 0,
    outlier: Annotated[
        float, Option(help="In 2-D: leave out tokens per second so many deviations above the mean.")
    ] = 4.0,
    fit: Annotated[
        Path | None,
        Option(help="A training YAML: find the largest batch of each bucket for its model."),
    ] = None,
    memory: Annotated[
        str | None,
        Option(help="With --fit: budget of a step, e.g. 16GB. Default: most of what is free."),
    ] = None,
    two_dimensional: Annotated[
        bool, Option("--two-dimensional", help="Buckets by seconds and tokens.")
    ] = False,
    stream: Annotated[str | None, Option(help="With --fit: which of data.streams the sizes are for.")] = None,
    out: Annotated[
        Path | None,
        Option(help="With --fit: write the data section here, for `aronnax train CONFIG OUT`."),
    ] = None,
    plot: Annotated[Path | None, Option(help="Draw padding before and after; needs 2-D or --fit.")] = None,
) -> None:
    """Estimate duration buckets for a data set.

    The edges part the total duration into equal shares; what they save in padding is printed beside them.
    """
    if fit is not None:
        from aronnax.cli.fit import FitOptions, fit_batch_sizes

        fit_batch_sizes(
            fit, data or [], FitOptions(memory, two_dimensional, sub_buckets, limit, out, plot, stream)
        )
        return
    if not data:
        raise ManifestError("name the data: NeMo manifests, Lhotse cuts (.jsonl.gz) or shar folders")
    try:
        from aronnax.collections.common.data import measuring
    except ImportError as error:
        raise MissingExtraError(error.name or "lhotse", "train", "aronnax bins") from None
    two_dimensional = two_dimensional or tokenizer is not None
    if two_dimensional and tokenizer is None:
        raise OptionError("--two-dimensional counts tokens: name a --tokenizer folder")
    if not two_dimensional and (plot, prompt, extra_tokens) != (None, None, 0):
        raise OptionError("--plot, --prompt and --extra-tokens belong to 2-D buckets: give --tokenizer too")
    if plot is not None:
        need_matplotlib()
    count = None if tokenizer is None else measuring.token_count(tokenizer, prompt, extra_tokens)
    with bar(None, "{n_fmt} recordings ({elapsed})") as shown:
        seen = shown.update if shown is not None else lambda: None
        lengths, counts = measuring.measure(data, count, limit, seen)
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
    if not two_dimensional:
        print(measuring.report_1d(durations, buckets, batch_duration))
        return
    tokens = [counts[i] for i in inside]
    report, before, after = measuring.report_2d(
        durations, tokens, buckets, sub_buckets, batch_duration, outlier
    )
    print(report)
    if plot is not None:
        draw_waste(before, after, plot)
        print(f"# the plot is in {plot}")
