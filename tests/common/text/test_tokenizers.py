"""Tokenizers keep ids, text and files straight, and say what is wrong with bad ones."""

from __future__ import annotations

import pytest

from aronnax.collections.common.text import (
    AggregateTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    tokenizer_from_assets,
    train_sentencepiece,
)
from aronnax.core.errors import CheckpointError, OptionError

ENGLISH = ["hello world, it's fine", "the world is nice; hello!", "well, is it? yes"] * 2
GERMAN = ["hallo welt", "die welt ist schön, nicht wahr?", "guten tag, welt"] * 2
PIECES = ["[PAD]", "[UNK]", "a", "b", "he", "##llo", "##l", "w", "##o", "##r", "##ld", ".", ",", "hello"]


def english(kind: str = "bpe", size: int = 40) -> SentencePieceTokenizer:
    return train_sentencepiece(ENGLISH, size, kind)  # type: ignore[arg-type]


def all_kinds() -> list[Tokenizer]:
    german = train_sentencepiece(GERMAN, 30)
    return [
        english(),
        WordPieceTokenizer(PIECES),
        CharacterTokenizer([" ", "a", "b", "'", "[", ":", "é", "\U0001f600"]),
        AggregateTokenizer({"en": english(), "de": german, "w": WordPieceTokenizer(PIECES)}),
    ]


@pytest.mark.parametrize("index", range(4))
def test_files_make_an_equal_tokenizer(index: int) -> None:
    first = all_kinds()[index]
    again = tokenizer_from_assets(first.assets())
    assert again.vocabulary == first.vocabulary
    assert again.assets() == first.assets()
    assert isinstance(again, Tokenizer)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_text_survives_encoding_and_decoding(kind: str) -> None:
    ours = english(kind, 26 if kind != "bpe" else 40)
    assert ours.vocabulary[0] == "<unk>"
    for text in ENGLISH:
        assert ours.decode(ours.encode(text)) == text


def test_training_is_the_same_every_time() -> None:
    first = train_sentencepiece(ENGLISH, 35, max_texts=4, seed=3)
    assert first.model == train_sentencepiece(ENGLISH, 35, max_texts=4, seed=3).model


def test_special_pieces_stand_whole_right_after_unknown() -> None:
    ours = train_sentencepiece(ENGLISH, 40, specials=["<|en|>"])
    assert ours.vocabulary[1] == "<|en|>"
    assert "<|en|>" in ours.pieces(ours.encode("hello<|en|> world"))


def test_a_blank_before_punctuation_is_taken_away_only_once() -> None:
    ours = CharacterTokenizer(list(" ab.,"))
    assert ours.decode(ours.encode("ab , a.")) == "ab, a."
    assert ours.decode([1, 0, 0, 3]) == "a ."


def test_a_piece_starts_a_word_where_decoding_puts_a_blank() -> None:
    for ours, text in [
        (english(), "hello world, is it fine?"),
        (WordPieceTokenizer(PIECES), "hello world. a"),
    ]:
        ids = ours.encode(text)
        words = [ours.starts_word(token) for token in ids[1:]].count(True) + 1
        assert words == len(ours.decode(ids).split())


def test_wordpiece_takes_the_longest_match_or_the_whole_word_is_unknown() -> None:
    ours = WordPieceTokenizer(PIECES)
    assert ours.pieces(ours.encode("world hello hex a.b")) == [
        "w",
        "##o",
        "##r",
        "##ld",
        "hello",
        "[UNK]",
        *"a.b",
    ]


def test_aggregate_ids_are_offset_in_order() -> None:
    one, two = english(), train_sentencepiece(GERMAN, 30)
    both = AggregateTokenizer({"en": one, "de": two})
    assert both.vocab_size == one.vocab_size + two.vocab_size
    assert both.encode("welt", "de") == [token + one.vocab_size for token in two.encode("welt")]
    ids = both.encode("hello", "en") + both.encode("welt", "de")
    assert both.decode(ids) == "hello welt"
    assert [both.language_of(token) for token in (0, one.vocab_size - 1, one.vocab_size)] == [
        "en",
        "en",
        "de",
    ]


def test_aggregate_asks_for_the_language() -> None:
    both = AggregateTokenizer({"en": english()})
    with pytest.raises(OptionError, match="no language was given"):
        both.encode("hello")
    with pytest.raises(OptionError, match="no language 'fr'"):
        both.encode("hello", "fr")


def test_the_blank_cannot_be_decoded() -> None:
    ours = english()
    with pytest.raises(IndexError, match="the blank"):
        ours.decode([ours.vocab_size])


@pytest.mark.parametrize(
    ("texts", "size", "kind", "message"),
    [
        (["hello"], 1000, "bpe", "too large for 1 texts with 4 different characters: they give at most"),
        (["hello world"], 4, "unigram", r"too small for 1 texts .* alone need \d+"),
        (["", "  "], 30, "bpe", "every transcript is empty"),
        (["a"], 1, "bpe", "at least 2 pieces"),
        (["a"], 9, "words", "choose one of bpe, unigram, char"),
    ],
)
def test_texts_that_cannot_be_trained_on_are_explained(
    texts: list[str], size: int, kind: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        train_sentencepiece(texts, size, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        ({}, "tokenizer.yaml is missing"),
        ({"tokenizer.yaml": b"type: bert"}, "type 'bert'; known are sentencepiece"),
        ({"tokenizer.yaml": b"- a"}, "must be a mapping"),
        ({"tokenizer.yaml": b"type: [\n"}, "not valid YAML"),
        ({"tokenizer.yaml": b"type: sentencepiece"}, "tokenizer.model is missing"),
        ({"tokenizer.yaml": b"type: sentencepiece", "tokenizer.model": b"x"}, "not a SentencePiece model"),
        ({"tokenizer.yaml": b"type: wordpiece", "vocab.txt": b"a\nb\n"}, "unknown piece"),
        ({"tokenizer.yaml": b"type: wordpiece", "vocab.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"tokenizer.yaml": b"type: characters\nlabels: [a, 1]"}, "`labels`, a list of strings"),
        ({"tokenizer.yaml": b"type: characters\nlabels: [a, a]"}, "twice"),
        ({"tokenizer.yaml": b"type: aggregate\nlanguages: [en]"}, "en: the file tokenizer.yaml is missing"),
    ],
)
def test_damaged_files_are_explained(assets: dict[str, bytes], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_assets(assets)
