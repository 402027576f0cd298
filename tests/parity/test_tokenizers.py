"""Tokenizers give the ids and texts that NeMo's give (fixtures written by make/text_pieces.py, exact)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from aronnax.collections.common.text import (
    AggregateTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "tokenizers.json").read_text())


def sentencepiece(kind: str) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(base64.b64decode(CASES[kind]["model"]))


def tokenizer(name: str) -> Tokenizer:
    if name == "wordpiece":
        return WordPieceTokenizer(CASES[name]["vocabulary"])
    if name == "characters":
        return CharacterTokenizer(CASES[name]["labels"])
    return sentencepiece(name)


@pytest.mark.parametrize("name", ["bpe", "unigram", "wordpiece", "characters"])
def test_ids_are_nemos(name: str) -> None:
    case, ours = CASES[name], tokenizer(name)
    assert [ours.encode(text) for text in case["texts"]] == case["encoded"]


@pytest.mark.parametrize("name", ["bpe", "unigram", "wordpiece", "characters"])
def test_decoded_text_is_nemos_but_for_blanks_at_its_ends(name: str) -> None:
    case, ours = CASES[name], tokenizer(name)
    assert [ours.decode(ids) for ids in case["ids"]] == [text.strip() for text in case["decoded"]]


@pytest.mark.parametrize("name", ["bpe", "unigram", "wordpiece"])
def test_pieces_are_nemos(name: str) -> None:
    case, ours = CASES[name], tokenizer(name)
    assert [ours.pieces(ids) for ids in case["ids"]] == case["pieces"]


def test_aggregate_ids_are_nemos_and_its_text_differs_only_before_punctuation() -> None:
    case = CASES["aggregate"]
    ours = AggregateTokenizer({kind: sentencepiece(kind) for kind in case["languages"]})
    encoded = [ours.encode(text, language) for text in case["texts"] for language in case["languages"]]
    assert encoded == case["encoded"]
    for ids, theirs in zip(case["encoded"], case["decoded"]):
        assert ours.decode(ids).replace(" ", "") == theirs.replace(" ", "")
