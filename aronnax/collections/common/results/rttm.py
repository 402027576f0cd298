"""NIST's files of who spoke when (RTTM), what is to be scored (UEM) and words with times (CTM), read and checked.

Every error is a ManifestError that names the file, the line and the field.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from aronnax.collections.common.results.diarization import Turn
from aronnax.collections.common.results.transcript import Word
from aronnax.core.errors import ManifestError

OTHER_TYPES = frozenset(
    {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU"}
    | {"CB", "A/P", "SPKR-INFO"}
)
"""Kinds of RTTM lines that say nothing of turns and are passed over."""

SLACK = 0.5
"""Seconds by which a turn may run past the end of its recording: annotators and file headers round."""


@dataclass(frozen=True)
class Line:
    """The fields of one line and where they stand, for errors."""

    path: Path
    number: int
    fields: tuple[str, ...]

    def seconds(self, place: int, name: str) -> float:
        """A field as a finite time of at least 0."""
        text = self.fields[place]
        try:
            value = float(text)
        except ValueError:
            self.fail(f"{name} (field {place + 1}) is {text!r}, not a number of seconds")
        if not math.isfinite(value) or value < 0:
            self.fail(f"{name} (field {place + 1}) is {text}; it must be a time of at least 0 seconds")
        return value

    def confidence(self, place: int) -> float | None:
        """A field as a number, or None where it is missing or <NA>."""
        if len(self.fields) <= place or self.fields[place].upper() == "<NA>":
            return None
        try:
            return float(self.fields[place])
        except ValueError:
            self.fail(f"the confidence (field {place + 1}) is {self.fields[place]!r}, not a number or <NA>")

    def fail(self, what: str) -> NoReturn:
        """Raise the ManifestError of this line."""
        raise ManifestError(f"{self.path}:{self.number}: {what}")


def read_rttm(
    path: str | Path,
    *,
    recordings: Collection[str] | Mapping[str, float] | None = None,
    others: bool = False,
) -> dict[str, tuple[Turn, ...]]:
    """The turns of each recording that an RTTM file names, sorted by start.

    recordings: those that exist; a line about another one is an error unless `others` may be named. If it maps them
    to their seconds, a turn that begins or ends beyond the end is one too.
    """
    found: dict[str, list[Turn]] = {}
    for line in lines(Path(path)):
        kind = line.fields[0].upper()
        if kind in OTHER_TYPES:
            continue
        if kind != "SPEAKER":
            line.fail(
                f"the type (field 1) is {line.fields[0]!r}, which RTTM does not know; turns are SPEAKER lines"
            )
        if len(line.fields) < 8:
            line.fail(f"a SPEAKER line has at least 8 fields and this one has {len(line.fields)}")
        start, duration = line.seconds(3, "the start"), line.seconds(4, "the duration")
        name, speaker = line.fields[1], line.fields[7]
        if speaker.upper() == "<NA>":
            line.fail("the speaker (field 8) is missing")
        if recordings is not None and (name in recordings or not others):
            _check_recording(line, name, start + duration, recordings)
        if duration > 0:
            found.setdefault(name, []).append(Turn(speaker, start, start + duration, line.confidence(8)))
    return {
        name: tuple(sorted(turns, key=lambda turn: (turn.start, turn.end))) for name, turns in found.items()
    }


def read_uem(path: str | Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """The (start, end) regions to be scored of each recording that a UEM file names, sorted."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines(Path(path)):
        if len(line.fields) < 4:
            line.fail(
                f"a UEM line has 4 fields (recording, channel, start, end) and this one has {len(line.fields)}"
            )
        start, end = line.seconds(2, "the start"), line.seconds(3, "the end")
        if end <= start:
            line.fail(f"the end (field 4) is {end} s, which is not after the start {start} s")
        found.setdefault(line.fields[0], []).append((start, end))
    return {name: tuple(sorted(regions)) for name, regions in found.items()}


def read_ctm(path: str | Path) -> dict[str, tuple[Word, ...]]:
    """The words of each recording that a CTM file names, sorted by start; a 7th field is the speaker."""
    found: dict[str, list[Word]] = {}
    for line in lines(Path(path)):
        if len(line.fields) < 5:
            line.fail(f"a CTM line has at least 5 fields and this one has {len(line.fields)}")
        start, duration = line.seconds(2, "the start"), line.seconds(3, "the duration")
        speaker = line.fields[6] if len(line.fields) > 6 and line.fields[6].upper() != "<NA>" else None
        word = Word(line.fields[4], start, start + duration, line.confidence(5), speaker)
        found.setdefault(line.fields[0], []).append(word)
    return {name: tuple(sorted(words, key=lambda word: word.start)) for name, words in found.items()}


def write_uem(regions: Mapping[str, Collection[tuple[float, float]]]) -> str:
    """The text of a UEM file."""
    return "".join(
        f"{name} 1 {start:.3f} {end:.3f}\n"
        for name in sorted(regions)
        for start, end in sorted(regions[name])
    )


def _check_recording(
    line: Line, name: str, end: float, recordings: Collection[str] | Mapping[str, float]
) -> None:
    if name not in recordings:
        known = ", ".join(sorted(recordings)[:5]) or "none"
        line.fail(f"the recording {name!r} (field 2) is absent; there are {known}")
    if isinstance(recordings, Mapping) and end > recordings[name] + SLACK:
        line.fail(f"the turn ends at {end:.3f} s but the recording {name!r} ends at {recordings[name]:.3f} s")


def lines(path: Path) -> Iterator[Line]:
    """The lines of one of NIST's files, without comments; ManifestError if it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror}") from None
    with file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise ManifestError(f"{path}:{number}: the line is not UTF-8 text") from None
            if text and not text.startswith(";;"):
                yield Line(path, number, tuple(text.split()))
