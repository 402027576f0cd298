"""Conversations as JSON lines: read into messages, checked turn by turn, and written.

A line is an object with its turns in `messages` (or `conversations`) and any other fields. Three ways to write turns
are read, and may be mixed:

- `{"role": "user", "content": ["Transcribe:", {"audio": "a.wav"}]}`, which is what aronnax writes;
- OpenAI's lists of parts, `{"type": "text", "text": ...}` and `{"type": "audio", "audio": "a.wav"}`;
- NeMo's, one part a turn: `{"from": "User", "type": "audio", "value": "a.wav", "duration": 3.2, "offset": 0}`.

Turns of one speaker that follow each other are one message. Paths are relative to the file's folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aronnax.collections.common.data.manifest import resolve_audio, write_manifest
from aronnax.collections.llm.chat.lines import numbered_lines
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.core.errors import ManifestError

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
TURNS = ("messages", "conversations")
"""Names of the field with the turns."""
_PLACES = ("audio", "audio_filepath", "path")
"""Names of the field with an audio's path."""


@dataclass(frozen=True)
class Conversation:
    """One line of a file of conversations."""

    id: str
    messages: tuple[Message, ...]
    """Turns; the source of an audio is its path, with the file's folder in front where it was relative."""
    line: int = 0
    """Number of the line, from 1."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """All other fields."""
    details: tuple[Mapping[str, Any], ...] = ()
    """The fields that each audio has beside its place, such as `sampling_rate`, in order."""
    turns: tuple[int, ...] = ()
    """The number of the turn of each audio as the line has them, from 1."""


def read_conversations(
    path: str | Path, *, answered: bool = True, check_audio: bool = True
) -> Iterator[Conversation]:
    """Conversations of a file in order, one line in memory at a time; lines with `_skipme` are passed over.

    Args:
        path: JSON lines.
        answered: Whether each must end with an answer, as training needs.
        check_audio: Whether each audio must exist.

    Raises:
        ManifestError: the file is missing or empty, or a line is broken; names file, line, turn and field.
    """
    path = Path(path)
    for number, line in numbered_lines(path):
        conversation = parse_conversation(line, path, number, answered=answered, check_audio=check_audio)
        if conversation is not None:
            yield conversation


def parse_conversation(
    line: str | bytes, path: Path, number: int, *, answered: bool = True, check_audio: bool = True
) -> Conversation | None:
    """One line of the file `path`, or None where it says `_skipme`; raises as `read_conversations` does."""
    where = f"{path}, line {number}"
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: not JSON ({error}); each line holds one conversation") from None
    if not isinstance(fields, dict):
        raise ManifestError(f"{where}: {type(fields).__name__} instead of an object with `messages`")
    if fields.get("_skipme"):
        return None
    named = next((name for name in TURNS if name in fields), None)
    if named is None:
        raise ManifestError(f"{where}: the field messages (or conversations) with the turns is missing")
    turns = fields[named]
    if not isinstance(turns, list) or not turns:
        raise ManifestError(f"{where}: {named} is {_short(turns)}; it must be a list of turns")
    reader = _Turns(where, path.parent, check_audio)
    for place, turn in enumerate(turns, start=1):
        reader.read(turn, place)
    reader.finish(answered)
    messages = tuple(Message(role, tuple(content)) for role, content in reader.messages)
    extra = {key: value for key, value in fields.items() if key not in ("id", *TURNS)}
    name = str(fields.get("id") or f"{path.stem}-{number}")
    return Conversation(name, messages, number, extra, tuple(reader.details), tuple(reader.turns))


class _Turns:
    """Reads the turns of one line one after the other."""

    def __init__(self, where: str, folder: Path, check_audio: bool) -> None:
        self.where, self.folder, self.check_audio = where, folder, check_audio
        self.messages: list[tuple[str, list[str | Audio]]] = []
        self.details: list[Mapping[str, Any]] = []
        self.turns: list[int] = []
        self._last = 0

    def read(self, turn: Any, place: int) -> None:
        """Take one turn in; raises ManifestError for a broken one."""
        self._last = place
        if not isinstance(turn, dict):
            raise self._error(place, f"is {_short(turn)}; it must be an object with role and content")
        role = self._role(turn, place)
        content = self._content(turn, role, place)
        if not content:
            what = "an answer to learn" if role == "assistant" else "text or audio"
            raise self._error(place, f"content of {role} is empty; it must hold {what}")
        if role == "system" and self.messages:
            raise self._error(place, "role is system; only the first turn may be")
        if role == "assistant" and not any(before == "user" for before, _ in self.messages):
            raise self._error(place, "role is assistant, and no user has spoken before")
        if self.messages and self.messages[-1][0] == role:
            self.messages[-1][1].extend(content)
        else:
            self.messages.append((role, content))

    def finish(self, answered: bool) -> None:
        """Check how the conversation ends."""
        role = self.messages[-1][0]
        if answered and role != "assistant":
            raise self._error(self._last, f"role is {role}; the last turn must be the assistant's answer")

    def _role(self, turn: Mapping[str, Any], place: int) -> str:
        name = next((name for name in ("role", "from") if name in turn), None)
        if name is None:
            raise self._error(place, "the field role (or from) is missing")
        role = _ROLES.get(str(turn[name]).lower())
        if role is None:
            raise self._error(place, f"{name} is {_short(turn[name])}; it must be user, assistant or system")
        return role

    def _content(self, turn: Mapping[str, Any], role: str, place: int) -> list[str | Audio]:
        name = next((name for name in ("content", "value") if name in turn), None)
        if name is None:
            raise self._error(place, "the field content (or value) is missing")
        value, kind = turn[name], turn.get("type", "text")
        if kind not in ("text", "audio"):
            raise self._error(place, f"type is {_short(kind)}; it must be text or audio")
        if kind == "audio":
            value = [{**turn, "type": "audio", "audio": value}]
        elif isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise self._error(place, f"{name} is {_short(value)}; it must be text or a list of parts")
        parts = [self._part(part, role, place, name) for part in value]
        return [part for part in parts if not isinstance(part, str) or part.strip()]

    def _part(self, part: Any, role: str, place: int, name: str) -> str | Audio:
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            raise self._error(place, f"{name} has the part {_short(part)}; a part is text or an object")
        kind = part.get("type", "audio" if any(key in part for key in _PLACES) else "text")
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise self._error(place, f"{name} has the part {_short(part)}, which lacks its text")
            return str(part["text"])
        if kind != "audio":
            raise self._error(place, f"{name} has a part of type {_short(kind)}; it must be text or audio")
        if role != "user":
            raise self._error(place, f"{name} of {role} has an audio; only the user's may")
        return self._audio(part, place)

    def _audio(self, part: Mapping[str, Any], place: int) -> Audio:
        key = next((key for key in _PLACES if key in part), "audio")
        path = part.get(key)
        if not isinstance(path, str) or not path:
            raise self._error(place, f"{key} is {_short(path)}; it must be the path of a recording")
        path = resolve_audio(path, self.folder)
        if self.check_audio and "://" not in path and not os.path.isfile(path):
            raise self._error(place, f"{key} names {path}, which does not exist")
        offset = self._seconds(part, "offset", place) or 0.0
        taken = ("type", "role", "from", "content", "value", "offset", "duration", *_PLACES)
        self.turns.append(place)
        self.details.append({name: value for name, value in part.items() if name not in taken})
        return Audio(path, offset, self._seconds(part, "duration", place))

    def _seconds(self, part: Mapping[str, Any], name: str, place: int) -> float | None:
        value = part.get(name)
        if value is None:
            return None
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0:
            raise self._error(
                place, f"{name} is {_short(value)}; it must be a number of seconds, not below 0"
            )
        return float(value)

    def _error(self, place: int, what: str) -> ManifestError:
        return ManifestError(f"{self.where}, turn {place}: {what}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def to_fields(
    id: str, messages: Sequence[Message], folder: Path, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A conversation as the object of a line of a file in `folder`; audios inside it are named relative to it."""
    turns = [
        {"role": message.role, "content": [_plain(part, folder) for part in message.content]}
        for message in messages
    ]
    for turn in turns:
        if len(turn["content"]) == 1 and isinstance(turn["content"][0], str):
            turn["content"] = turn["content"][0]
    return {"id": id, "messages": turns, **(extra or {})}


def write_conversations(path: str | Path, conversations: Iterable[Conversation]) -> int:
    """Write conversations as JSON lines, whole or not at all; returns how many."""
    folder = Path(path).parent
    return write_manifest(
        path, (to_fields(each.id, each.messages, folder, each.extra) for each in conversations)
    )


def _plain(part: str | Audio, folder: Path) -> str | dict[str, Any]:
    if isinstance(part, str):
        return part
    path = os.fspath(part.source)
    inside = os.path.relpath(path, folder) if "://" not in path else path
    found: dict[str, Any] = {"audio": os.path.abspath(path) if inside.startswith("..") else inside}
    if part.offset:
        found["offset"] = part.offset
    if part.duration is not None:
        found["duration"] = part.duration
    return found
