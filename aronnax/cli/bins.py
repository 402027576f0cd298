"""`aronnax bins`: duration buckets for a data set, ready to paste into a training configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.terminal import bar
from aronnax.cli.waste_plot import draw_waste, need_matplotlib
from aronnax.core.errors import ManifestError, MissingExtraError, OptionError


@dataclass(frozen=True)
class Counting:
    """How tokens are counted."""

    tokenizer: Path | None
    prompt: str | None
    extra_tokens: int
    token_seconds: float | None
    """Seconds of a token in conversations; None for recordings, whose text does not lengthen them."""


def bins(
    data: Annotated[
        list[str] | None,
        Argument(
            help="NeMo manifests, files of conversations, Lhotse cuts (.jsonl.gz) or shar folders; with --fit, "
            "overrides too."
        ),
    ] = None,
    buckets: Annotated[int, Option(help="Number of buckets.")] = 30,
    batch_duration: Annotated[float, Option(help="Seconds in a batch, padding counted.")] = 120.0,
    min_duration: Annotated[float, Option(help="Leave out shorter recordings (seconds).")] = 0.1,
    max_duration: Annotated[float | None, Option(help="Leave out longer recordings (seconds).")] = None,
    limit: Annotated[int, Option(help="Look at no more than so many recordings.")] = 1_000_000,
    tokenizer: Annotated[
        Path | None, Option(help="Tokenizer folder, for 2-D buckets and conversations (a model's will do).")
    ] = None,
    sub_buckets: Annotated[int, Option(help="In 2-D: buckets by tokens in each.")] = 2,
    prompt: Annotated[
        str | None,
        Option(
            help="In 2-D: count the tokens of this prompt too (canary, canary2). Conversations: how they are written "
            "down (qwen, llama3, ...); the tokenizer's own template by default."
        ),
    ] = None,
    token_seconds: Annotated[
        float, Option(help="Conversations: seconds that a token of text counts.")
    ] = 0.08,
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

    The edges part the total duration into equal shares; what they save in padding is printed beside them. A
    conversation is as long as its recordings and, for each token of its text, --token-seconds.
    """
    if fit is not None:
        from aronnax.cli.fit import FitOptions, fit_batch_sizes

        fit_batch_sizes(
            fit, data or [], FitOptions(memory, two_dimensional, sub_buckets, limit, out, plot, stream)
        )
        return
    if not data:
        raise ManifestError(
            "name the data: NeMo manifests, files of conversations, Lhotse cuts (.jsonl.gz) or shar folders"
        )
    talks = _talks(data)
    from aronnax.collections.common.data import measuring

    two_dimensional = two_dimensional or (tokenizer is not None and not talks)
    if tokenizer is None and (two_dimensional or talks):
        what = "conversations are" if talks else "--two-dimensional is"
        raise OptionError(f"{what} measured in tokens too: name a --tokenizer folder")
    if not two_dimensional and (plot, extra_tokens, prompt if not talks else None) != (None, 0, None):
        raise OptionError("--plot, --prompt and --extra-tokens belong to 2-D buckets: give --tokenizer too")
    if plot is not None:
        need_matplotlib()
    noun = "conversations" if talks else "recordings"
    counting = Counting(tokenizer, prompt, extra_tokens, token_seconds if talks else None)
    measured = _measured(data, counting, limit, noun)
    durations, tokens = _inside(*measured, min_duration, max_duration)
    if not durations:
        raise ManifestError(f"{', '.join(data)}: none of {len(measured[0])} {noun} lies within the limits")
    hours = sum(durations) / 3600
    print(f"# {len(durations)} {noun}, {hours:.2f} h, {min(durations):.2f} to {max(durations):.2f} s")
    if len(durations) < len(measured[0]):
        print(f"# {len(measured[0]) - len(durations)} outside the limits were left out")
    if not two_dimensional:
        print(measuring.report_1d(durations, buckets, batch_duration))
        return
    report, before, after = measuring.report_2d(
        durations, tokens, buckets, sub_buckets, batch_duration, outlier
    )
    print(report)
    if plot is not None:
        draw_waste(before, after, plot)
        print(f"# the plot is in {plot}")


def _talks(data: Sequence[str]) -> bool:
    """Whether there are conversations among the data; MissingExtraError where these cannot be read."""
    try:
        from aronnax.collections.speechlm.conversation.measuring import are_conversations
    except ImportError as error:
        raise MissingExtraError(error.name or "lhotse", "train", "aronnax bins") from None
    return any(map(are_conversations, data))


def _inside(
    lengths: Sequence[float], counts: Sequence[int], shortest: float, longest: float | None
) -> tuple[list[float], list[int]]:
    """Seconds and tokens of what is neither too short nor too long; no tokens where none were counted."""
    inside = [
        place
        for place, length in enumerate(lengths)
        if shortest <= length and (longest is None or length <= longest)
    ]
    return [lengths[place] for place in inside], [counts[place] for place in inside] if counts else []


def _measured(
    data: Sequence[str], counting: Counting, limit: int, noun: str
) -> tuple[list[float], list[int]]:
    """Seconds and tokens of each recording or conversation; no tokens without a tokenizer."""
    from aronnax.collections.common.data import measuring

    with bar(None, f"{{n_fmt}} {noun} ({{elapsed}})") as shown:
        seen = shown.update if shown is not None else lambda: None
        if counting.tokenizer is None:
            return measuring.measure(data, None, limit, seen)
        if counting.token_seconds is None:
            count = measuring.token_count(counting.tokenizer, counting.prompt, counting.extra_tokens)
            return measuring.measure(data, count, limit, seen)
        from aronnax.collections.speechlm.conversation import measuring as conversations

        chat = conversations.read_chat_tokenizer(counting.tokenizer, counting.prompt or "chat_template")
        lengths, counts = conversations.measure_conversations(data, chat, counting.token_seconds, limit, seen)
        return lengths, [count + counting.extra_tokens for count in counts]
