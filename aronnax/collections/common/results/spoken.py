"""Who said what and when, read from what people keep it in: STM, SegLST, manifests with speakers, our transcripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aronnax.collections.common.results.rttm import lines
from aronnax.collections.common.results.transcript import Transcript
from aronnax.collections.common.results.writers import UNKNOWN
from aronnax.core.errors import ConfigError, ManifestError

SUFFIXES = (".stm", ".json", ".jsonl")
"""Files that hold it."""

_IGNORED = "ignore_time_segment_in_scoring"
# SegLST's names of what manifests call audio_filepath, text, offset and offset + duration.
_SEGLST = ("session_id", "words", "start_time", "end_time")


@dataclass(frozen=True)
class Spoken:
    """Words of one speaker; times in seconds, None where they are unknown."""

    speaker: str
    text: str
    start: float | None = None
    end: float | None = None


def read_spoken(path: str | Path) -> dict[str, tuple[Spoken, ...]]:
    """What is said in each recording that a file, or the files of a folder, tell of.

    STM; JSON lines with `audio_filepath`, `speaker`, `text`, and `offset` and `duration` for the times; SegLST
    (a list or lines of `session_id`, `speaker`, `words`, `start_time`, `end_time`); or the JSON of a transcript,
    whose words without a speaker are UNKNOWN's. Recordings are called by their file's stem without blanks.

    Raises ManifestError that names the file, the line and what is wrong.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ManifestError(f"{path}: the folder holds no file that ends in {', '.join(SUFFIXES)}")
    found: dict[str, list[Spoken]] = {}
    for file in files:
        for recording, spoken in _stm(file) if file.suffix.lower() == ".stm" else _json(file):
            said = found.setdefault(recording, [])
            if spoken is not None:
                said.append(spoken)
    return {recording: tuple(said) for recording, said in found.items()}


def recording_name(source: str) -> str:
    """What a recording is called: its file's stem, without blanks."""
    return "_".join(Path(source).stem.split()) or "recording"


_Found = Iterator[tuple[str, "Spoken | None"]]


def _stm(path: Path) -> _Found:
    for line in lines(path):
        if len(line.fields) < 5:
            line.fail(
                "an STM line has at least 5 fields (recording, channel, speaker, start, end) and this one has"
                f" {len(line.fields)}"
            )
        start, end = line.seconds(3, "the start"), line.seconds(4, "the end")
        if end < start:
            line.fail(f"the end (field 5) is {end} s, which is before the start {start} s")
        words = line.fields[5:]
        if words and words[0].startswith("<") and words[0].endswith(">"):
            words = words[1:]
        text = " ".join(words)
        yield line.fields[0], None if text.lower() == _IGNORED else Spoken(line.fields[2], text, start, end)


def _json(path: Path) -> _Found:
    """A transcript, a list of segments, or a segment in each line."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path} cannot be opened: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path} is not UTF-8 text") from None
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield from _one(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
        return
    for number, plain in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        yield from _one(plain, f"{path}, segment {number}" if isinstance(whole, list) else f"{path}:1")


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error})") from None


def _one(plain: Any, where: str) -> _Found:
    if not isinstance(plain, Mapping):
        raise ManifestError(f"{where}: {type(plain).__name__} instead of an object with named fields")
    if "segments" in plain and "text" in plain:
        yield from _transcript(plain, where)
    elif "session_id" in plain:
        yield _segment(plain, where, *_SEGLST)
    else:
        offset, duration = plain.get("offset") or 0.0, plain.get("duration")
        times: dict[str, Any] = {"offset": None, "end": None}
        if isinstance(offset, (int, float)) and isinstance(duration, (int, float)):
            times = {"offset": offset, "end": offset + duration}
        yield _segment({**plain, **times}, where, "audio_filepath", "text", "offset", "end")


def _segment(
    plain: Mapping[str, Any], where: str, recording: str, text: str, start: str, end: str
) -> tuple[str, Spoken]:
    for name in (recording, "speaker", text):
        if not isinstance(plain.get(name), str):
            raise ManifestError(
                f"{where}: the field {name} is {plain.get(name)!r}; who said what needs texts as {recording},"
                f" speaker and {text}"
            )
    times = [plain.get(start), plain.get(end)]
    for name, value in zip((start, end), times):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ManifestError(f"{where}: the field {name} is {value!r}; it must be a number of seconds")
    # A session is named by its id as it is; only paths have a stem.
    name = plain[recording] if recording == "session_id" else recording_name(plain[recording])
    return name, Spoken(plain["speaker"], plain[text], *times)


def _transcript(plain: Mapping[str, Any], where: str) -> _Found:
    try:
        transcript = Transcript.from_dict(plain)
    except ConfigError as error:
        raise ManifestError(f"{where}: {error}") from None
    recording = recording_name(transcript.source or "recording")
    yield recording, None
    if not transcript.words and transcript.text:
        yield recording, Spoken(UNKNOWN, transcript.text, 0.0, transcript.duration)
    for word in transcript.words:
        yield recording, Spoken(word.speaker or UNKNOWN, word.text, word.start, word.end)
