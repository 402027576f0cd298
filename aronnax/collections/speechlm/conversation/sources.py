"""Files of conversations as cuts, for the data module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from aronnax.collections.common.data.config import InputConfig
from aronnax.collections.common.data.manifest import ManifestEntry
from aronnax.collections.common.data.nemo_cuts import JsonLines, entry_cut, entry_recording, expand
from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.speechlm.conversation.cuts import conversation_cut
from aronnax.collections.speechlm.conversation.reading import parse_conversation, read_conversations
from aronnax.core.errors import AudioError

FIRST_LINES = 100
"""Of a file, looked at before anything else is done."""


class Conversations(JsonLines):
    """Cuts of one or more files of conversations, in the layouts that `reading` knows.

    A conversation with a recording that is missing or unreadable is left out with a warning; one with broken turns
    is an error.
    """

    def _cut(self, line: bytes, path: Path, number: int) -> Cut | None:
        found = parse_conversation(line, path, number, check_audio=False) if line.strip() else None
        if found is None:
            return None
        audios = [audio for message in found.messages for audio in message.audios]
        try:
            recordings = [
                self._recording(audio, details, f"{found.id}-{place}", number, turn)
                for place, (audio, details, turn) in enumerate(zip(audios, found.details, found.turns))
            ]
        except AudioError as error:
            self.dropped.unreadable(f"{path}, line {number}", str(error))
            return None
        nested = found.extra.get("custom")
        fields = {**self.config.slots, **(nested if isinstance(nested, dict) else {}), **found.extra}
        language = fields.get("target_lang") or fields.get(self.config.language_field)
        return conversation_cut(
            found.id,
            found.messages,
            recordings,
            language=language if isinstance(language, str) else None,
            custom=fields,
        )

    def _recording(self, audio: Audio, details: Mapping[str, Any], id: str, number: int, turn: int) -> Cut:
        entry = ManifestEntry(
            str(audio.source), audio.offset, audio.duration, line=number, extra=dict(details)
        )
        try:
            return entry_cut(entry, entry_recording(entry), id, self.config)
        except AudioError as error:
            raise AudioError(f"turn {turn} (user): {error}") from None


def check_first_lines(inputs: Iterable[InputConfig]) -> None:
    """Look at the first lines of each file of conversations among the inputs, before models are loaded for them.

    Raises ManifestError as `read_conversations` does.
    """
    for item in inputs:
        check_first_lines(item.inputs)
        for path in expand(item.path) if item.type == "conversations" else ():
            for _ in islice(read_conversations(path, check_audio=False), FIRST_LINES):
                pass
