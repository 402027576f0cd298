"""Conversations on their way through the data module: Lhotse cuts that hold turns and any number of recordings.

Such a cut has no audio of its own. Its custom field `conversation` holds the turns as plain data,
`{"role": "user", "content": ["Transcribe:", 0]}`, where a number is the place of a recording in the custom field
`recordings`, a list of cuts. Its duration is its length on one scale: the seconds of its recordings and, for each
token of its text, the seconds that a frame of speech stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aronnax.collections.llm.chat.messages import Audio, Message

if TYPE_CHECKING:
    from lhotse.cut import Cut

CONVERSATION = "conversation"
"""Custom field with the turns."""


def conversation_cut(
    id: str,
    messages: Sequence[Message],
    recordings: Sequence[Cut],
    *,
    language: str | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Cut:
    """The cut of a conversation whose audios are `recordings`, in order; its supervision is the last answer.

    Until its tokens are counted it is as long as its recordings.
    """
    from lhotse import MonoCut, SupervisionSegment

    from aronnax.collections.common.data.recordings import RECORDINGS

    seconds = sum(cut.duration for cut in recordings)
    answer = SupervisionSegment(
        id=id,
        recording_id=id,
        start=0.0,
        duration=seconds,
        channel=0,
        text=messages[-1].text() if messages[-1].role == "assistant" else None,
        language=language,
    )
    fields = {**(custom or {}), CONVERSATION: _plain(messages), RECORDINGS: list(recordings)}
    return MonoCut(id=id, start=0.0, duration=seconds, channel=0, supervisions=[answer], custom=fields)


def is_conversation(cut: Cut) -> bool:
    """Whether a cut holds the turns of a conversation."""
    return CONVERSATION in (cut.custom or {})


def messages_of(cut: Cut) -> tuple[Message, ...]:
    """The turns of a conversation cut; the source of an audio is a cut."""
    from aronnax.collections.common.data.recordings import RECORDINGS

    recordings = cut.custom[RECORDINGS]
    return tuple(
        Message(
            turn["role"],
            tuple(part if isinstance(part, str) else Audio(recordings[part]) for part in turn["content"]),
        )
        for turn in cut.custom[CONVERSATION]
    )


def with_messages(cut: Cut, messages: Sequence[Message]) -> Cut:
    """The same cut with other words around its recordings, all of which the messages must keep, in order."""
    from lhotse.utils import fastcopy

    return fastcopy(cut, custom={**cut.custom, CONVERSATION: _plain(messages)})


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    count, turns = 0, []
    for message in messages:
        content: list[str | int] = []
        for part in message.content:
            content.append(part if isinstance(part, str) else count)
            count += isinstance(part, Audio)
        turns.append({"role": message.role, "content": content})
    return turns
