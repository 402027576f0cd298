"""A transcript: text, words and segments, with times in seconds from the start of the recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aronnax.collections.common.results import writers
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class Word:
    """One word as it is written, punctuation attached, with its times in seconds.

    `confidence` is between 0 and 1, or None when it was not asked for.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The word as plain values; `speaker` is left out when unknown."""
        plain: dict[str, Any] = {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "confidence": self.confidence,
        }
        return plain if self.speaker is None else {**plain, "speaker": self.speaker}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Word:
        """The inverse of `to_dict`; a missing field raises ConfigError."""
        _require(plain, ("text", "start", "end"), "word")
        return cls(plain["text"], plain["start"], plain["end"], plain.get("confidence"), plain.get("speaker"))


@dataclass(frozen=True)
class Segment:
    """A sentence, or a stretch between two pauses; its words lie inside its times."""

    text: str
    start: float
    end: float
    confidence: float | None = None
    words: tuple[Word, ...] = ()

    @property
    def speaker(self) -> str | None:
        """Who says it: the speaker of its first word, since no segment goes on past a change of speakers."""
        return self.words[0].speaker if self.words else None

    def to_dict(self) -> dict[str, Any]:
        """The segment and its words as plain values; `speaker` is left out when unknown."""
        plain: dict[str, Any] = {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "confidence": self.confidence,
            "words": [word.to_dict() for word in self.words],
        }
        return plain if self.speaker is None else {**plain, "speaker": self.speaker}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Segment:
        """The inverse of `to_dict`; a missing field raises ConfigError."""
        _require(plain, ("text", "start", "end"), "segment")
        words = tuple(Word.from_dict(word) for word in plain.get("words", ()))
        return cls(plain["text"], plain["start"], plain["end"], plain.get("confidence"), words)


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording of `duration` seconds.

    `model` says which checkpoint heard it, `source` which recording it was, and `notes` what the reader
    should know of how it was made (for instance that a long recording was read in chunks).

    >>> transcript = Transcript("hello", 1.5, (Word("hello", 0.24, 0.8, 0.97),))
    >>> str(transcript)
    'hello'
    >>> Transcript.from_dict(transcript.to_dict()) == transcript
    True
    """

    text: str
    duration: float
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()
    model: str | None = None
    source: str | None = None
    language: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The whole transcript as plain values, ready for JSON."""
        return {
            "text": self.text,
            "duration": self.duration,
            "words": [word.to_dict() for word in self.words],
            "segments": [segment.to_dict() for segment in self.segments],
            "model": self.model,
            "source": self.source,
            "language": self.language,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Transcript:
        """The inverse of `to_dict`; a missing `text` or `duration` raises ConfigError."""
        _require(plain, ("text", "duration"), "transcript")
        return cls(
            text=plain["text"],
            duration=plain["duration"],
            words=tuple(Word.from_dict(word) for word in plain.get("words", ())),
            segments=tuple(Segment.from_dict(segment) for segment in plain.get("segments", ())),
            model=plain.get("model"),
            source=plain.get("source"),
            language=plain.get("language"),
            notes=tuple(plain.get("notes", ())),
        )

    def to_txt(self) -> str:
        """The text alone, on one line; with speakers, a line for each of their turns: `SPEAKER 1: ...`."""
        return writers.txt(self)

    def to_json(self) -> str:
        """JSON with text, duration, words, segments, model, source, language and notes."""
        return writers.json(self)

    def to_srt(self) -> str:
        """SubRip subtitles, at most two lines of 42 columns a cue."""
        return writers.srt(self)

    def to_vtt(self) -> str:
        """WebVTT subtitles, at most two lines of 42 columns a cue."""
        return writers.vtt(self)

    def to_ctm(self) -> str:
        """NIST time-marked words: recording, channel, start, duration, word, confidence, and speaker if known."""
        return writers.ctm(self)

    def to_stm(self) -> str:
        """NIST segments: recording, channel, speaker, start, end, text."""
        return writers.stm(self)


def _require(plain: Mapping[str, Any], names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if name not in plain:
            raise ConfigError(f"a {kind} needs the field {name!r}, and this one has {sorted(plain)}")
