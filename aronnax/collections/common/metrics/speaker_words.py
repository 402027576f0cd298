"""Who said what, scored: word errors with speakers matched (cpWER) and with times respected (tcpWER), by MeetEval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aronnax.collections.common.metrics.normaliser import normaliser
from aronnax.collections.common.metrics.wer import ErrorCounts
from aronnax.collections.common.results.spoken import Spoken
from aronnax.core.errors import MissingExtraError, OptionError

COLLAR = 5.0
"""Seconds by which tcpWER lets words be displaced, as in the CHiME challenges."""


@dataclass(frozen=True)
class SpeakerWords:
    """Word errors of one recording, or of several added up."""

    cp: ErrorCounts = field(default_factory=ErrorCounts)
    """All words of a speaker against all words of who was found for them, by the cheapest matching."""
    tcp: ErrorCounts | None = field(default_factory=ErrorCounts)
    """The same where words match only at nearly the same time; None where times are unknown."""

    def __add__(self, other: SpeakerWords) -> SpeakerWords:
        return SpeakerWords(
            self.cp + other.cp, None if self.tcp is None or other.tcp is None else self.tcp + other.tcp
        )

    def to_dict(self) -> dict[str, object]:
        """The counts in JSON types."""
        return {"cpwer": self.cp.to_dict(), "tcpwer": None if self.tcp is None else self.tcp.to_dict()}


def score_speaker_words(
    reference: Mapping[str, Sequence[Spoken]],
    hypothesis: Mapping[str, Sequence[Spoken]],
    *,
    collar: float = COLLAR,
    normalise: str = "none",
) -> dict[str, SpeakerWords]:
    """The word errors of each recording of the reference, both sides normalised first; add them for a whole.

    A recording without a hypothesis is deleted altogether. `collar`: seconds by which tcpWER lets a word lie off.
    Raises OptionError for a recording that the reference does not know, or a collar below 0; MissingExtraError.

    >>> reference = {"a": [Spoken("A", "one two", 0.0, 1.0), Spoken("B", "three", 1.0, 2.0)]}
    >>> found = {"a": [Spoken("1", "one", 0.0, 0.5), Spoken("2", "two three", 0.5, 2.0)]}
    >>> print(score_speaker_words(reference, found)["a"].cp)
    66.67 % (2 of 3: 1 insertions, 1 deletions, 0 substitutions)
    """
    if not 0 <= collar < float("inf"):
        raise OptionError(f"collar={collar} must be a number of seconds of at least 0")
    unknown = sorted(set(hypothesis) - set(reference))
    if unknown:
        raise OptionError(
            f"the hypothesis names {unknown[0]!r}, which the reference does not; it names"
            f" {', '.join(sorted(reference)[:5]) or 'no recording'}; leave it out, or name it as the reference does"
        )
    clean = normaliser(normalise)
    return {
        name: _score(name, spoken, hypothesis.get(name, ()), collar, clean)
        for name, spoken in reference.items()
    }


def _score(
    name: str, reference: Sequence[Spoken], hypothesis: Sequence[Spoken], collar: float, clean: Any
) -> SpeakerWords:
    io, wer = _meeteval()
    both = [_segments(io, name, side, clean) for side in (reference, hypothesis)]
    timed = all(one.start is not None and one.end is not None for one in (*reference, *hypothesis))
    cp = _counts(wer.cpwer(*both)[name])
    return SpeakerWords(cp, _counts(wer.tcpwer(*both, collar=collar)[name]) if timed else None)


def _segments(io: Any, name: str, spoken: Sequence[Spoken], clean: Any) -> Any:
    """MeetEval's segments, in the order they are said; a recording in which nobody speaks has an empty one."""
    ordered = sorted(spoken, key=lambda one: one.start or 0.0) or [Spoken("nobody", "", 0.0, 0.0)]
    return io.SegLST(
        [
            {
                "session_id": name,
                "speaker": one.speaker,
                "words": clean(one.text),
                "start_time": one.start or 0.0,
                "end_time": one.end or 0.0,
            }
            for one in ordered
        ]
    )


def _counts(found: Any) -> ErrorCounts:
    return ErrorCounts(found.length, found.insertions, found.deletions, found.substitutions)


def _meeteval() -> tuple[Any, Any]:
    try:
        from meeteval import io, wer
    except ImportError as error:
        raise MissingExtraError("meeteval", "meeting", "scoring who said what") from error
    return io, wer
