"""NeMo manifests, JSON lines: read and written without Lhotse, for inference and for checking.

A line holds `audio_filepath` (relative to the manifest) and may hold `duration` and `offset` in seconds, `text`,
`lang` and whatever else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aronnax.core.errors import AudioError, ManifestError

_OWN = ("audio_filepath", "offset", "duration", "text", "lang")


@dataclass(frozen=True)
class ManifestEntry:
    """One line of a manifest."""

    audio_filepath: str
    """Path with the manifest's folder in front where it was relative."""
    offset: float = 0.0
    """Seconds from the beginning of the file."""
    duration: float | None = None
    """Seconds; None stands for all that follows the offset."""
    text: str | None = None
    language: str | None = None
    line: int = 0
    """Number of the line, from 1."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """All other fields."""


def read_manifest(path: str | Path, *, check_audio: bool = False) -> Iterator[ManifestEntry]:
    """Entries of a manifest in order, one line in memory at a time; lines with `_skipme` are passed over.

    With `check_audio` the header of each file that exists is read, and an offset beyond its end is an error;
    a missing or unreadable file is left for whoever opens it.

    Raises:
        ManifestError: the file is missing or empty, or a line is malformed; names file, line and field.
    """
    path = Path(path)
    found = False
    for number, line in _lines(path):
        found = True
        entry = parse_entry(line, path, number)
        if entry is None:
            continue
        if check_audio:
            check_offset(entry, path)
        yield entry
    if not found:
        raise ManifestError(f"{path}: the manifest is empty; each line describes one recording")


def write_manifest(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write entries as JSON lines, whole or not at all; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def parse_entry(line: str | bytes, path: Path, number: int, text_field: str = "text") -> ManifestEntry | None:
    """One line of the manifest `path`, or None where it says `_skipme`.

    Raises:
        ManifestError: the line is not JSON, lacks a field or has one of the wrong type.
    """
    where = f"{path}, line {number}"
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{where}: not JSON ({error}); a manifest has one JSON object in each line"
        ) from None
    if not isinstance(fields, dict):
        raise ManifestError(
            f"{where}: {type(fields).__name__} instead of an object with named fields; a manifest"
            " has one JSON object in each line"
        )
    if fields.get("_skipme"):
        return None
    audio = fields.get("audio_filepath")
    if audio is None:
        talks = "messages" in fields or "conversations" in fields
        hint = "it holds a conversation, which an input of `type: conversations` reads"
        if not talks:
            hint = f"the line has {', '.join(map(str, fields)) or 'no field'}"
        raise ManifestError(f"{where}: the field audio_filepath is missing; {hint}")
    if not isinstance(audio, str) or not audio:
        raise ManifestError(f"{where}: audio_filepath is {audio!r}; it must be a path")
    text = fields.get(text_field)
    if text is None and text_field == "text":
        text = fields.get("answer")
    if text is not None and not isinstance(text, str):
        raise ManifestError(f"{where}: {text_field} is {text!r}; it must be a string")
    offset = _seconds(fields, "offset", where)
    language = fields.get("lang")
    return ManifestEntry(
        audio_filepath=resolve_audio(audio, path.parent),
        offset=0.0 if offset is None else offset,
        duration=_seconds(fields, "duration", where),
        text=text,
        language=language if isinstance(language, str) else None,
        line=number,
        extra={key: value for key, value in fields.items() if key not in _OWN and key != text_field},
    )


def check_offset(entry: ManifestEntry, path: Path) -> None:
    """Compare an entry with its file's header.

    Raises:
        ManifestError: the offset lies at or beyond the end of the recording.
    """
    from aronnax.collections.common.audio.reading import probe

    if entry.offset == 0.0 or not os.path.isfile(entry.audio_filepath):
        return
    try:
        seconds = probe(entry.audio_filepath).seconds
    except AudioError:
        return
    if entry.offset >= seconds:
        raise ManifestError(
            f"{path}, line {entry.line}: offset {entry.offset:g} s lies beyond the end of "
            f"{entry.audio_filepath}, which is {seconds:.2f} s long"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines with their numbers."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ManifestError(f"{path}: the manifest cannot be opened: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _seconds(fields: Mapping[str, Any], name: str, where: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ManifestError(f"{where}: {name} is {value!r}; it must be a number of seconds")
    if value < 0:
        raise ManifestError(f"{where}: {name} is negative ({value:g}); it must be a time in seconds")
    return float(value)


def resolve_audio(audio: str, folder: Path) -> str:
    """A path of a manifest in `folder` as one from here; a URL stays as it is."""
    if "://" in audio:
        return audio
    return os.path.join(folder, os.path.expanduser(audio))
