"""Transcripts as text files: pure functions from a transcript to the content of a file."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING

from aronnax.collections.common.results.cues import Cue, cues
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.results.transcript import Transcript, Word

UNKNOWN = "UNKNOWN"
"""Who says what no speaker was found for, in a transcript with speakers."""


def clock(seconds: float, point: str) -> str:
    """Seconds as `HH:MM:SS<point>mmm`; hours grow past two digits when they must.

    >>> clock(3723.0456, ",")
    '01:02:03,046'
    """
    milliseconds = max(round(seconds * 1000), 0)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"


def txt(transcript: Transcript) -> str:
    """The text on one line; with speakers, a line for each stretch in which one of them has the word."""
    if not any(segment.speaker for segment in transcript.segments):
        return " ".join(transcript.text.split()) + "\n"
    lines = []
    for speaker, segments in groupby(transcript.segments, key=lambda segment: segment.speaker):
        said = " ".join(" ".join(segment.text.split()) for segment in segments)
        lines.append(f"{speaker or UNKNOWN}: {said}\n")
    return "".join(lines)


def json(transcript: Transcript) -> str:
    """Everything the transcript holds, as JSON in UTF-8 characters."""
    return json_module.dumps(transcript.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def srt(transcript: Transcript) -> str:
    """SubRip subtitles; an empty transcript gives an empty file."""
    return "\n".join(
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{_srt_text(cue)}\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles; an empty transcript gives the header alone."""
    blocks = [
        f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_vtt_text(cue)}\n" for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def ctm(transcript: Transcript) -> str:
    """NIST CTM, one word a line: recording, channel 1, start and duration in seconds, word, confidence, speaker."""
    return "".join(
        f"{_recording(transcript)} 1 {word.start:.3f} {max(word.end - word.start, 0.0):.3f}"
        f" {'_'.join(word.text.split())}{_ctm_tail(word)}\n"
        for word in transcript.words
    )


def stm(transcript: Transcript) -> str:
    """NIST STM, one segment a line: recording, channel 1, speaker, start and end in seconds, text."""
    return "".join(
        f"{_recording(transcript)} 1 {'_'.join((segment.speaker or UNKNOWN).split())}"
        f" {segment.start:.3f} {segment.end:.3f} {' '.join(segment.text.split())}\n"
        for segment in transcript.segments
    )


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": txt,
    "json": json,
    "srt": srt,
    "vtt": vtt,
    "ctm": ctm,
    "stm": stm,
}


def write(transcript: Transcript, file_format: str) -> str:
    """The content of a file in one of FORMATS; OptionError for another name."""
    if file_format not in FORMATS:
        raise OptionError(f"format {file_format!r} is not known; use one of {', '.join(FORMATS)}")
    return FORMATS[file_format](transcript)


def _recording(transcript: Transcript) -> str:
    """What NIST's files call the recording: its stem, without blanks."""
    return "_".join(PurePath(transcript.source or "audio").stem.split()) or "audio"


def _ctm_tail(word: Word) -> str:
    """Confidence and speaker, as far as they are known."""
    if word.speaker is not None:
        confidence = "<NA>" if word.confidence is None else f"{word.confidence:.4f}"
        return f" {confidence} {'_'.join(word.speaker.split())}"
    return "" if word.confidence is None else f" {word.confidence:.4f}"


def _srt_text(cue: Cue) -> str:
    # SubRip has no escapes: an arrow in the text would read as a time line.
    lines = "\n".join(cue.lines).replace("-->", "->")
    return f"{cue.speaker}: {lines}" if cue.speaker else lines


def _vtt_text(cue: Cue) -> str:
    lines = _vtt_escaped("\n".join(cue.lines))
    return f"<v {_vtt_escaped(cue.speaker)}>{lines}" if cue.speaker else lines


def _vtt_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
