"""Who spoke when: turns with times in seconds, and the probabilities they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class Turn:
    """One stretch in which a speaker speaks; `confidence` is the mean probability over it, or None."""

    speaker: str
    start: float
    end: float
    confidence: float | None = None

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start

    def to_dict(self) -> dict[str, Any]:
        """The turn as plain values."""
        return {
            "speaker": self.speaker,
            "start": self.start,
            "end": self.end,
            "confidence": self.confidence,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Turn:
        """The inverse of `to_dict`; a missing field raises ConfigError."""
        for name in ("speaker", "start", "end"):
            if name not in plain:
                raise ConfigError(f"a turn needs the field {name!r}, and this one has {sorted(plain)}")
        return cls(plain["speaker"], plain["start"], plain["end"], plain.get("confidence"))


@dataclass(frozen=True, eq=False)
class Diarization:
    """Who spoke when in one recording of `duration` seconds; turns are sorted by start and may overlap.

    probabilities [T, S] say for every frame of `frame_seconds` how likely each speaker speaks, in the order of
    arrival; None where only turns are known, as when read from a file. `speakers` are their names.

    >>> found = Diarization((Turn("speaker_0", 0.08, 1.2),), 2.0, source="call.wav")
    >>> print(found.to_rttm(), end="")
    SPEAKER call 1 0.080 1.120 <NA> <NA> speaker_0 <NA> <NA>
    """

    turns: tuple[Turn, ...]
    duration: float
    probabilities: np.ndarray | None = None
    frame_seconds: float | None = None
    names: tuple[str, ...] = ()
    """The speaker of each column of `probabilities`."""
    source: str | None = None
    model: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers of the turns, in the order of their first words."""
        return tuple(dict.fromkeys(turn.speaker for turn in self.turns))

    @property
    def recording(self) -> str:
        """What RTTM calls the recording: the source's stem, without blanks."""
        stem = PurePath(self.source).stem if self.source else "recording"
        return "_".join(stem.split()) or "recording"

    def to_rttm(self) -> str:
        """NIST RTTM, one line a turn; empty when nobody speaks."""
        return "".join(
            f"SPEAKER {self.recording} 1 {turn.start:.3f} {turn.duration:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
            for turn in self.turns
        )

    def to_dict(self, *, probabilities: bool = False) -> dict[str, Any]:
        """Plain values ready for JSON; the probabilities (4 decimals) only when asked for."""
        plain: dict[str, Any] = {
            "source": self.source,
            "duration": self.duration,
            "speakers": list(self.speakers),
            "turns": [turn.to_dict() for turn in self.turns],
            "model": self.model,
            "notes": list(self.notes),
        }
        if probabilities and self.probabilities is not None:
            plain["names"] = list(self.names)
            plain["frame_seconds"] = self.frame_seconds
            plain["probabilities"] = np.round(self.probabilities.astype(np.float64), 4).tolist()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Diarization:
        """The inverse of `to_dict`; a missing `turns` or `duration` raises ConfigError."""
        for name in ("turns", "duration"):
            if name not in plain:
                raise ConfigError(f"a diarization needs the field {name!r}, and this one has {sorted(plain)}")
        rows = plain.get("probabilities")
        return cls(
            turns=tuple(Turn.from_dict(turn) for turn in plain["turns"]),
            duration=plain["duration"],
            probabilities=None if rows is None else np.asarray(rows, np.float32),
            frame_seconds=plain.get("frame_seconds"),
            names=tuple(plain.get("names", ())),
            source=plain.get("source"),
            model=plain.get("model"),
            notes=tuple(plain.get("notes", ())),
        )

    def to_json(self, *, probabilities: bool = False) -> str:
        """JSON with source, duration, speakers, turns, model and notes."""
        return json.dumps(self.to_dict(probabilities=probabilities), ensure_ascii=False, indent=2)
