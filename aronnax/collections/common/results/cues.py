"""Cutting a transcript into subtitle cues that can be read: at most two lines of 42 columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aronnax.collections.common.results.transcript import Segment, Transcript, Word

COLUMNS = 42
LINES = 2
# A cue shorter than this cannot be read; it stays on screen longer when nothing follows.
SHORTEST = 0.5


@dataclass(frozen=True)
class Cue:
    """One subtitle: its lines, and when it is shown, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str | None = None


@dataclass(frozen=True)
class _Piece:
    """A word, or a part of one that is wider than a line."""

    text: str
    start: float
    end: float
    speaker: str | None


def cues(transcript: Transcript) -> list[Cue]:
    """Subtitle cues of a transcript, in order; a new segment or speaker opens a new one."""
    found = [cue for pieces in _segments(transcript) for cue in _pack(pieces)]
    limits = [cue.start for cue in found[1:]] + [transcript.duration]
    return [_shown(cue, limit) for cue, limit in zip(found, limits)]


def width(text: str) -> int:
    """Columns a text takes on screen: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _segments(transcript: Transcript) -> Iterator[list[_Piece]]:
    """The pieces of each segment; a transcript without word times is spread evenly over its own time."""
    if not transcript.segments:
        yield list(_split_words(transcript.words or _spread(transcript.text, 0.0, transcript.duration)))
    for segment in transcript.segments:
        yield list(_split_words(_segment_words(segment)))


def _segment_words(segment: Segment) -> Iterable[Word | _Piece]:
    return segment.words or _spread(segment.text, segment.start, segment.end)


def _spread(text: str, start: float, end: float) -> Iterator[_Piece]:
    """The words of a text, each given time in proportion to its width."""
    words = text.split()
    total = sum(width(word) for word in words)
    position = 0
    for word in words:
        first, position = position, position + width(word)
        yield _Piece(
            word, start + (end - start) * first / total, start + (end - start) * position / total, None
        )


def _split_words(words: Iterable[Word | _Piece]) -> Iterator[_Piece]:
    """Words as pieces no wider than a line; line breaks inside a word become spaces."""
    for word in words:
        text = " ".join(word.text.split())
        parts = list(_narrow(text))
        step = (word.end - word.start) / max(len(parts), 1)
        for i, part in enumerate(parts):
            yield _Piece(part, word.start + i * step, word.start + (i + 1) * step, word.speaker)


def _narrow(text: str) -> Iterator[str]:
    line = ""
    for character in text:
        if line and width(line + character) > COLUMNS:
            yield line
            line = ""
        line += character
    if line:
        yield line


def _pack(pieces: Sequence[_Piece]) -> Iterator[Cue]:
    """Fill cues with as many pieces as fit."""
    held: list[_Piece] = []
    for piece in pieces:
        if held and (piece.speaker != held[-1].speaker or not _fits([*held, piece])):
            yield _cue(held)
            held = []
        held.append(piece)
    if held:
        yield _cue(held)


def _room(piece: _Piece, first: bool) -> int:
    """Columns a piece takes in a line, the speaker's name before the cue's first word included."""
    return width(piece.text) + (width(piece.speaker) + 2 if first and piece.speaker else 0)


def _fits(pieces: Sequence[_Piece]) -> bool:
    lines, used = 1, _room(pieces[0], first=True)
    for piece in pieces[1:]:
        if used + 1 + _room(piece, first=False) <= COLUMNS:
            used += 1 + _room(piece, first=False)
        else:
            lines, used = lines + 1, _room(piece, first=False)
    return lines <= LINES


def _cue(pieces: Sequence[_Piece]) -> Cue:
    """One cue, its two lines as equal as they can be."""
    words = [piece.text for piece in pieces]
    name = _room(pieces[0], first=True) - width(words[0])
    lines: tuple[str, ...] = (" ".join(words),)
    if name + width(lines[0]) > COLUMNS:
        breaks = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
        lines = min(breaks, key=lambda pair: max(name + width(pair[0]), width(pair[1])))
    return Cue(pieces[0].start, pieces[-1].end, lines, pieces[0].speaker)


def _shown(cue: Cue, limit: float) -> Cue:
    """The cue on screen long enough to read where nothing follows before `limit` seconds."""
    end = max(cue.end, cue.start + SHORTEST)
    if limit > cue.start:
        end = min(end, limit)
    return Cue(cue.start, end, cue.lines, cue.speaker)
