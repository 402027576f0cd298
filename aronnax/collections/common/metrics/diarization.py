"""Who spoke when, scored: diarization error rate with its parts and Jaccard error rate, by pyannote.metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aronnax.collections.common.results.diarization import Turn
from aronnax.core.errors import MissingExtraError, OptionError

Regions = Sequence[tuple[float, float]]
"""(start, end) seconds that are scored."""


@dataclass(frozen=True)
class DiarizationErrors:
    """Seconds of one recording, or of several added up; speakers are matched within each recording."""

    speech: float = 0.0
    """Seconds of speech in the reference, those of two speakers at once counted twice."""
    missed: float = 0.0
    """Seconds of it in which the hypothesis has too few speakers."""
    false_alarm: float = 0.0
    """Seconds of speakers beyond those of the reference."""
    confusion: float = 0.0
    """Seconds given to the wrong speaker."""
    speakers: float = 0.0
    """Speakers of the reference."""
    jaccard: float = 0.0
    """Sum over them of the share of time that the speaker and who was found for them do not have in common."""

    @property
    def der(self) -> float:
        """Diarization error rate, a fraction; infinite for speech where there was none."""
        wrong = self.missed + self.false_alarm + self.confusion
        return wrong / self.speech if self.speech else (float("inf") if wrong else 0.0)

    @property
    def jer(self) -> float:
        """Jaccard error rate, a fraction of at most 1."""
        return self.jaccard / self.speakers if self.speakers else float(self.false_alarm > 0)

    def __add__(self, other: DiarizationErrors) -> DiarizationErrors:
        return DiarizationErrors(
            self.speech + other.speech,
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.speakers + other.speakers,
            self.jaccard + other.jaccard,
        )

    def to_dict(self) -> dict[str, float | None]:
        """The rates and the seconds in JSON types; an infinite rate is null."""
        return {
            "der": self.der if self.speech or not self.false_alarm else None,
            "jer": self.jer,
            "speech": self.speech,
            "missed": self.missed,
            "false_alarm": self.false_alarm,
            "confusion": self.confusion,
            "speakers": int(self.speakers),
        }

    def __str__(self) -> str:
        return (
            f"{100 * self.der:.2f} % of {self.speech:.1f} s of speech (missed {self.missed:.1f} s, "
            f"false alarm {self.false_alarm:.1f} s, confusion {self.confusion:.1f} s), JER {100 * self.jer:.2f} %"
        )


def score_diarization(
    reference: Mapping[str, Sequence[Turn]],
    hypothesis: Mapping[str, Sequence[Turn]],
    *,
    regions: Mapping[str, Regions] | None = None,
    collar: float = 0.0,
    skip_overlap: bool = False,
) -> dict[str, DiarizationErrors]:
    """The errors of each recording of the reference, or of `regions` where it is given (UEM); add them for a whole.

    A recording without a hypothesis is missed altogether. Time is scored inside the regions, by default all of it.
    collar: seconds on EACH side of every reference boundary that are not scored (NIST's 0.25; pyannote's own
    `collar` counts both sides). skip_overlap: leave out where the reference has several speakers.

    Raises OptionError for a recording that the reference does not know, or a collar below 0; MissingExtraError.

    >>> reference = {"a": [Turn("A", 0.0, 10.0)]}
    >>> print(score_diarization(reference, {"a": [Turn("x", 1.0, 12.0)]})["a"])
    30.00 % of 10.0 s of speech (missed 1.0 s, false alarm 2.0 s, confusion 0.0 s), JER 25.00 %
    """
    if not 0 <= collar < float("inf"):
        raise OptionError(f"collar={collar} must be a number of seconds of at least 0")
    names = list(regions if regions is not None else reference)
    unknown = sorted(set(hypothesis) - set(reference) - set(names))
    if unknown:
        raise OptionError(
            f"the hypothesis names {unknown[0]!r}, which the reference does not; it names"
            f" {', '.join(sorted(reference)[:5]) or 'no recording'}; leave it out, or name it as the reference does"
        )
    return {
        name: _score(
            reference.get(name, ()),
            hypothesis.get(name, ()),
            None if regions is None else regions[name],
            collar,
            skip_overlap,
        )
        for name in names
    }


def _score(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    regions: Regions | None,
    collar: float,
    skip_overlap: bool,
) -> DiarizationErrors:
    core, metrics = _pyannote()
    end = max((turn.end for turn in (*reference, *hypothesis)), default=0.0)
    spans = [(0.0, end)] if regions is None else regions
    scored = core.Timeline([core.Segment(*span) for span in spans]).support()
    given: dict[str, Any] = {"collar": 2 * collar, "skip_overlap": skip_overlap}
    two = _annotation(core, reference), _annotation(core, hypothesis)
    time = metrics.DiarizationErrorRate(**given)(*two, uem=scored, detailed=True)
    shares = metrics.JaccardErrorRate(**given)(*two, uem=scored, detailed=True)
    return DiarizationErrors(
        speech=time["total"],
        missed=time["missed detection"],
        false_alarm=time["false alarm"],
        confusion=time["confusion"],
        speakers=shares["speaker count"],
        jaccard=shares["speaker error"],
    )


def _annotation(core: Any, turns: Sequence[Turn]) -> Any:
    """Turns as pyannote's annotation; those of one speaker that touch or overlap are one."""
    made = core.Annotation()
    for track, turn in enumerate(turns):
        made[core.Segment(turn.start, turn.end), track] = turn.speaker
    return made.support()


def _pyannote() -> tuple[Any, Any]:
    try:
        from pyannote import core
        from pyannote.metrics import diarization as metrics
    except ImportError as error:
        raise MissingExtraError("pyannote.metrics", "meeting", "scoring diarizations") from error
    return core, metrics
