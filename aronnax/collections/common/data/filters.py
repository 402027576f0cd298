"""Leaving out recordings that would hurt: too long, too short, or with a transcript that cannot be theirs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from lhotse.cut import Cut

from aronnax.collections.common.data.config import BatchingConfig, FilterConfig
from aronnax.collections.common.data.non_speech import NON_SPEECH
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.slots import PLACE
from aronnax.collections.common.text import Tokenizer
from aronnax.core.errors import OptionError

Examine = Callable[[Cut], str | None]
"""Looks at a cut before anything else is done with it; returns why it is left out, or None."""


class CutFilter:
    """Passes on the cuts that fit, counting the others in `dropped` by reason."""

    def __init__(
        self,
        config: FilterConfig,
        batching: BatchingConfig,
        dropped: Dropped,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.config, self.dropped, self.tokenizer = config, dropped, tokenizer
        self.bins = batching.bucket_duration_bins if batching.closed else ()
        self._edges = [edge[0] if isinstance(edge, tuple) else edge for edge in batching.bucket_duration_bins]
        self._rates = batching.bucket_max_tokens_per_second
        self._counts_tokens = needs_tokens(config, batching)

    def __call__(self, cuts: Iterable[Cut]) -> Iterator[Cut]:
        """The cuts that fit, in order."""
        for cut in cuts:
            reason = self.reason(cut)
            if reason is None:
                self.dropped.keep(cut.duration)
                yield cut
            else:
                self.dropped.drop(reason, f"{cut_name(cut)} ({cut.duration:.2f} s)", cut.duration)

    def reason(self, cut: Cut) -> str | None:
        """Why a cut is left out, or None."""
        limits, seconds = self.config, cut.duration
        if seconds <= 0:
            return "without any sound"
        if limits.min_duration is not None and seconds < limits.min_duration:
            return f"shorter than {limits.min_duration:g} s"
        if limits.max_duration is not None and seconds > limits.max_duration:
            return f"longer than {limits.max_duration:g} s"
        text = cut_text(cut)
        if text is None:
            return "without a transcript"
        if is_non_speech(cut):
            return self._bin_reason(cut)
        if not text.strip() and not limits.allow_empty_text:
            return "with an empty transcript"
        found = _outside(
            len(text) / seconds,
            limits.min_characters_per_second,
            limits.max_characters_per_second,
            "characters",
        )
        if found is None and self._counts_tokens:
            found = self._token_reason(cut)
        return found or self._bin_reason(cut)

    def _token_reason(self, cut: Cut) -> str | None:
        limits = self.config
        rate = count_tokens(cut, self.tokenizer) / cut.duration
        found = _outside(rate, limits.min_tokens_per_second, limits.max_tokens_per_second, "tokens")
        if found is None and self._rates:
            bucket = min(bisect_left(self._edges, cut.duration), len(self._edges) - 1)
            if rate > self._rates[bucket]:
                return "with far more tokens a second than others of its length"
        return found

    def _bin_reason(self, cut: Cut) -> str | None:
        if not self.bins:
            return None
        last = self.bins[-1]
        if isinstance(last, float):
            return f"longer than the last bucket ({last:g} s)" if cut.duration > last else None
        tokens = count_tokens(cut, self.tokenizer)
        fits = any(
            cut.duration <= edge[0] and tokens <= edge[1] for edge in self.bins if isinstance(edge, tuple)
        )
        return None if fits else "longer or with more tokens than any bucket"


def needs_tokens(config: FilterConfig, batching: BatchingConfig) -> bool:
    """Whether the number of tokens matters before a batch is read."""
    limits = (config.min_tokens_per_second, config.max_tokens_per_second)
    if batching.two_dimensional or batching.bucket_max_tokens_per_second:
        return True
    return any(limit is not None for limit in limits)


def note_tokens(cut: Cut, tokenizer: Tokenizer) -> Cut:
    """Count a cut's tokens once and write the number into its first supervision."""
    return note_number(cut, _count(cut, tokenizer))


def note_number(cut: Cut, tokens: int) -> Cut:
    """Write a cut's number of tokens into its first supervision, where filters and buckets look for it."""
    if cut.supervisions:
        first = cut.supervisions[0]
        first.custom = {**(first.custom or {}), "num_tokens": tokens}
    return cut


def count_tokens(cut: Cut, tokenizer: Tokenizer | None) -> int:
    """A cut's number of tokens, as noted or counted now."""
    noted = next((s.custom["num_tokens"] for s in cut.supervisions if s.has_custom("num_tokens")), None)
    if noted is not None:
        return int(noted)
    if tokenizer is None:
        raise OptionError("filters by tokens and 2-D buckets need the tokenizer")
    return _count(cut, tokenizer)


def _count(cut: Cut, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(cut_text(cut) or "", cut_language(cut)))


def _outside(rate: float, low: float | None, high: float | None, unit: str) -> str | None:
    if low is not None and rate < low:
        return f"with fewer than {low:g} {unit} a second"
    if high is not None and rate > high:
        return f"with more than {high:g} {unit} a second"
    return None


def cut_text(cut: Cut) -> str | None:
    """The transcripts of a cut's supervisions in order of time, or None when none has one."""
    ordered = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    texts = [supervision.text for supervision in ordered if supervision.text is not None]
    return " ".join(text.strip() for text in texts) if texts else None


def cut_language(cut: Cut) -> str | None:
    """The language of a cut's first supervision that has one."""
    return next((s.language for s in cut.supervisions if s.language), None)


def is_non_speech(cut: Cut) -> bool:
    """Whether a cut is marked as one without speech, so that its empty text is right."""
    return bool((cut.custom or {}).get(NON_SPEECH))


def cut_place(cut: Cut) -> str:
    """The file and line that a cut was read from with the name of its audio, for messages about the line."""
    place, name = (cut.custom or {}).get(PLACE), cut_name(cut)
    return name if place is None else f"{place} ({name.rsplit('/', 1)[-1]})"


def cut_name(cut: Cut) -> str:
    """Where a cut's audio comes from, for messages."""
    recording = getattr(cut, "recording", None)
    if recording is not None and recording.sources:
        source = recording.sources[0].source
        if isinstance(source, str) and source:
            return source if source.endswith(recording.id) else f"{source} ({cut.id})"
    return str(cut.id)
