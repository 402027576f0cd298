"""How long conversations are and how many tokens they have, as the data module counts them; no audio is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from aronnax.collections.common.data.config import InputConfig, read_inputs
from aronnax.collections.common.data.filters import count_tokens
from aronnax.collections.common.data.nemo_cuts import expand
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.sources import Inputs
from aronnax.collections.llm.chat.tokenizer import FILES, TOKENIZER, ChatTokenizer
from aronnax.collections.speechlm.conversation.data import (
    ConversationConfig,
    ExamineConversations,
    ToConversations,
)
from aronnax.collections.speechlm.conversation.reading import TURNS
from aronnax.collections.speechlm.conversation.sources import Conversations
from aronnax.core.errors import ConfigError, ManifestError


def are_conversations(path: str) -> bool:
    """Whether the first line of a JSON-lines file has turns; False for all that is no such file."""
    if not path.endswith((".json", ".jsonl")):
        return False
    try:
        with Path(expand(path)[0]).open("rb") as file:
            first = json.loads(next((line for line in file if line.strip()), b"null"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and any(name in first for name in TURNS)


def read_chat_tokenizer(folder: Path, prompt_format: str) -> ChatTokenizer:
    """The tokenizer whose files lie in a folder, a model's for instance; ConfigError if there is none."""
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if TOKENIZER not in files:
        raise ConfigError(
            f"{folder} has no {TOKENIZER}: name the folder of a language model or of its tokenizer"
        )
    return ChatTokenizer(files, prompt_format=prompt_format)


def measure_conversations(
    data: Sequence[str],
    tokenizer: ChatTokenizer,
    token_seconds: float,
    limit: int,
    seen: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[int]]:
    """Lengths in seconds, tokens counting `token_seconds` each, and tokens of up to `limit` conversations.

    `data` are files of conversations, or anything with transcripts, about which the first templates ask as in
    training. `seen` is called for each.

    Raises:
        ManifestError: nothing was found, or a line is broken.
    """
    config, dropped = ConversationConfig(token_equivalent_duration=token_seconds), Dropped()
    inputs = [_as_conversations(item) for item in read_inputs(data, "DATA")]
    opening = {"conversations": Conversations}
    cuts = Inputs(inputs, dropped, shuffle=False, seed=0, open_input=opening)
    examine = ExamineConversations(tokenizer, config.token_equivalent_duration)
    lengths: list[float] = []
    counts: list[int] = []
    for cut in islice(ToConversations(config)(iter(cuts), 0, True), limit):
        if examine(cut) is not None:
            continue
        lengths.append(cut.duration)
        counts.append(count_tokens(cut, None))
        seen()
    if not lengths:
        raise ManifestError(f"{', '.join(data)}: no conversation was found; {dropped}")
    return lengths, counts


def _as_conversations(item: InputConfig) -> InputConfig:
    return replace(item, type="conversations") if are_conversations(item.path) else item
