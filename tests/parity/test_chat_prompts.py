"""Named prompt formats give the ids and masks that NeMo's formatters give (make/chat_prompts.py, exact)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.llm.chat.tokenizer import AUDIO_TOKEN, ChatTokenizer

pytest.importorskip("tokenizers")
FIXTURE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "chat_prompts.json").read_text())
CASES = [(kind, case) for kind, cases in FIXTURE["cases"].items() for case in cases]


def tokenizer(kind: str) -> ChatTokenizer:
    files = FIXTURE["tokenizers"][kind]
    return ChatTokenizer.from_assets(
        {name: text.encode() for name, text in files.items()}, prompt_format="plain"
    )


TOKENIZERS = {kind: tokenizer(kind) for kind in FIXTURE["tokenizers"]}


def with_audio(text: str) -> list[str | Audio]:
    """The text with recordings in the places of the locator, whose blanks stay with the text."""
    parts: list[str | Audio] = []
    for place, piece in enumerate(text.split(AUDIO_TOKEN)):
        if place:
            parts.append(Audio(f"{place}.wav"))
        if piece:
            parts.append(piece)
    return parts


@pytest.mark.parametrize(
    ("kind", "case"),
    CASES,
    ids=[f"{case['format']}, {case['chat']}, {case['system']:d}{case['thinking']:d}" for _, case in CASES],
)
def test_ids_and_masks_are_nemos(kind: str, case: dict[str, Any]) -> None:
    chat = [FIXTURE["system"]] if case["system"] else []
    chat = [
        {"role": turn["role"], "content": with_audio(turn["content"])}
        for turn in chat + FIXTURE["chats"][case["chat"]]
    ]
    answered = chat[-1]["role"] == "assistant"
    rendered = TOKENIZERS[kind].render(
        chat,
        answer=answered,
        prompt_format=case["format"],
        thinking=case["thinking"],
        rng=random.Random(7),
    )
    assert rendered.ids == case["ids"]
    assert [place for place, learned in enumerate(rendered.learned) if learned] == case["learned"]
