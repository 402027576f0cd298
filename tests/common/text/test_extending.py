"""Extending a vocabulary keeps the old rows and adds pieces that are really used."""

from __future__ import annotations

import pytest

from aronnax.collections.common.text import (
    AggregateTokenizer,
    CharacterTokenizer,
    WordPieceTokenizer,
    extend,
    tokenizer_from_assets,
    train_sentencepiece,
)
from aronnax.core.errors import OptionError

OLD = ["hello world", "the world is nice", "hello nice world", "it is fine"] * 2
NEW = ["żółty kot zjadł zupę", "kot lubi zupę", "hello kot", "żółty hello world", "worldly hellos"] * 2


@pytest.mark.parametrize(("kind", "size", "count"), [("bpe", 40, 25), ("unigram", 20, 12), ("char", 17, 9)])
def test_old_pieces_keep_their_ids_and_rows(kind: str, size: int, count: int) -> None:
    old = train_sentencepiece(OLD, size, kind)  # type: ignore[arg-type]
    new, rows = extend(old, texts=NEW, count=count)
    assert new.vocab_size == old.vocab_size + count
    assert new.vocabulary[: old.vocab_size] == old.vocabulary
    assert rows == [*range(old.vocab_size), *[-1] * count]
    assert len(set(new.vocabulary)) == new.vocab_size


def test_bpe_cuts_old_text_as_before_up_to_new_merges() -> None:
    old = train_sentencepiece(OLD, 40)
    new, _ = extend(old, texts=NEW, count=25)
    for text in OLD:
        assert new.encode(text) == old.encode(text)


def test_bpe_learns_pieces_it_then_uses() -> None:
    old = train_sentencepiece(OLD, 40)
    new, _ = extend(old, texts=NEW, count=30)
    assert 0 in old.encode("żółty kot")
    ids = new.encode("żółty kot")
    assert 0 not in ids
    assert max(ids) >= old.vocab_size
    assert new.decode(ids) == "żółty kot"
    merged = [piece for piece in new.vocabulary[old.vocab_size :] if len(piece) > 1]
    used = {piece for text in NEW for piece in new.pieces(new.encode(text))}
    assert merged
    assert used & set(merged)


def test_given_pieces_are_matched_whole_and_known_ones_passed_over() -> None:
    old = train_sentencepiece(OLD, 40)
    new, rows = extend(old, ["<|noise|>", "▁hello", "<|noise|>"])
    assert new.vocab_size == old.vocab_size + 1
    assert rows[-1] == -1
    assert new.encode("hello <|noise|> world").count(old.vocab_size) == 1


def test_an_extended_model_can_be_stored_and_extended_again() -> None:
    old = train_sentencepiece(OLD, 40)
    once, _ = extend(old, ["<|a|>"])
    twice, _ = extend(tokenizer_from_assets(once.assets()), ["<|b|>"], texts=NEW, count=10)
    assert twice.vocabulary[40:42] == ("<|a|>", "<|b|>")
    assert len(twice.vocabulary) == 52
    assert twice.encode("hello<|b|>").count(41) == 1


def test_characters_and_wordpieces_are_appended() -> None:
    characters, rows = extend(CharacterTokenizer(list(" ab")), texts=["abcc", "cd"], count=9)
    assert characters.vocabulary == (" ", "a", "b", "c", "d")
    assert rows == [0, 1, 2, -1, -1]
    pieces, _ = extend(WordPieceTokenizer(["[UNK]", "a"]), ["##b"])
    assert pieces.encode("ab") == [1, 2]


def test_extending_one_language_moves_the_rows_of_those_after_it() -> None:
    both = AggregateTokenizer({"x": CharacterTokenizer(list("ab")), "y": CharacterTokenizer(list("cd"))})
    new, rows = extend(both, ["z"], language="x")
    assert new.vocabulary == ("a", "b", "z", "c", "d")
    assert rows == [0, 1, -1, 2, 3]
    with pytest.raises(OptionError, match="which language to extend: one of x, y"):
        extend(both, ["z"])


def test_what_cannot_be_added_is_explained() -> None:
    old = train_sentencepiece(OLD, 40)
    with pytest.raises(OptionError, match=r"hold only .* new bpe pieces, 5000 were asked for"):
        extend(old, texts=NEW, count=5000)
    with pytest.raises(OptionError, match="nothing to add"):
        extend(old, ["▁hello"])
    with pytest.raises(OptionError, match="cannot learn pieces from texts"):
        extend(WordPieceTokenizer(["[UNK]"]), texts=["a"], count=1)
