"""Messages of a conversation: who says it, and what, in pieces of text and recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aronnax.core.errors import OptionError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Audio:
    """A recording within a message.

    >>> Audio("question.wav", offset=1.5, duration=2.0).source
    'question.wav'
    """

    source: Any
    """A path, the bytes of a file, an (array, rate) pair, or a Lhotse cut."""
    offset: float = 0.0
    """Second at which the part meant begins."""
    duration: float | None = None
    """Seconds of that part; to the end by default."""

    def name(self) -> str:
        """How messages to people call the recording."""
        return str(self.source) if isinstance(self.source, str | Path) else type(self.source).__name__


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    >>> Message("user", ("Transcribe:", Audio("a.wav"))).audios
    (Audio(source='a.wav', offset=0.0, duration=None),)
    """

    role: str
    """system, user or assistant."""
    content: tuple[str | Audio, ...]
    """What is said, in order."""

    @property
    def audios(self) -> tuple[Audio, ...]:
        """The recordings, in order."""
        return tuple(part for part in self.content if isinstance(part, Audio))

    def text(self, audio_token: str = "<audio>") -> str:
        """The turn as one text with `audio_token` for each recording; a blank stands between two pieces."""
        said = ""
        for part in self.content:
            piece = audio_token if isinstance(part, Audio) else part
            apart = said and piece and not said[-1].isspace() and not piece[0].isspace()
            said += f" {piece}" if apart else piece
        return said


def messages_from(given: Any) -> list[Message]:
    """One conversation from whatever callers write.

    A text is one user message. Otherwise a list of `Message` or of mappings with `role` and `content`, where content
    is a text, an `Audio`, or a list of texts, `Audio` and the usual `{"type": "text" | "audio", ...}` mappings.

    >>> messages_from([{"role": "user", "content": ["Repeat:", Audio("a.wav")]}])[0].role
    'user'

    Raises:
        OptionError: a turn is broken; the message says which one and how.
    """
    if isinstance(given, str):
        return [Message("user", (given,))]
    if isinstance(given, Message | Mapping):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise OptionError(
            f"a conversation must be a text or a list of messages, not {type(given).__name__}; "
            'write [{"role": "user", "content": "..."}]'
        )
    if not given:
        raise OptionError("the conversation is empty; it needs at least one user message")
    return [_message(turn, place) for place, turn in enumerate(given, start=1)]


def conversations_from(given: Any) -> tuple[list[list[Message]], bool]:
    """Conversations from one or from a list of them, and whether it was only one.

    A list of texts, or of lists, is a list of conversations; a list of messages is one.
    """
    single = isinstance(given, str | Message | Mapping) or not isinstance(given, Sequence)
    if not single and (not given or isinstance(given[0], Message | Mapping)):
        single = True
    if single:
        return [messages_from(given)], True
    return [messages_from(one) for one in given], False


def _message(turn: Any, place: int) -> Message:
    if isinstance(turn, Message):
        role, content = turn.role, turn.content
    elif isinstance(turn, Mapping):
        missing = [key for key in ("role", "content") if key not in turn]
        if missing:
            raise OptionError(f"turn {place} has no {missing[0]!r}; each message needs 'role' and 'content'")
        role, content = turn["role"], turn["content"]
    else:
        raise OptionError(
            f"turn {place} is a {type(turn).__name__}; each message is a mapping with 'role' and 'content'"
        )
    if role not in ROLES:
        raise OptionError(f"turn {place} has the role {role!r}; it must be one of {', '.join(ROLES)}")
    parts = content if isinstance(content, list | tuple) else [content]
    message = Message(role, tuple(_part(part, place) for part in parts))
    if role != "user" and message.audios:
        raise OptionError(f"turn {place} is the {role}'s and holds a recording; only the user's may")
    return message


def _part(part: Any, place: int) -> str | Audio:
    if isinstance(part, str | Audio):
        return part
    if isinstance(part, Mapping):
        kind = part.get("type", "text" if "text" in part else "audio")
        value = part.get(kind, part.get("path"))
        if kind == "text" and isinstance(value, str):
            return value
        if kind == "audio" and value is not None:
            return value if isinstance(value, Audio) else Audio(value)
    raise OptionError(
        f"turn {place} holds {type(part).__name__} {str(part)[:40]!r} in its content; "
        'write a text, Audio(...), {"type": "text", "text": ...} or {"type": "audio", "audio": ...}'
    )
