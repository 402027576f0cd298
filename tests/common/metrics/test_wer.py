from __future__ import annotations

import math

import pytest

from aronnax.collections.common.metrics import ErrorCounts, count_errors, normaliser, score
from aronnax.core.errors import OptionError


def test_each_kind_of_error_is_counted_apart() -> None:
    result = score(["one two three", "four", ""], ["one too three", "", "six six"])
    assert result.words == ErrorCounts(length=4, insertions=2, deletions=1, substitutions=1)
    assert [row.words.errors for row in result.rows] == [1, 1, 2]
    assert result.wer == 1.0


def test_characters_count_single_spaces_and_ignore_extra_ones() -> None:
    result = score(["ab  cd"], ["ab cx"])
    assert result.characters == ErrorCounts(length=5, substitutions=1)


def test_counts_of_parts_add_up_to_the_whole() -> None:
    references = ["a b c", "d e", "f", "g h i j"]
    hypotheses = ["a c", "d x e", "f", "h i k j"]
    whole = score(references, hypotheses).words
    parts = score(references[:2], hypotheses[:2]).words + score(references[2:], hypotheses[2:]).words
    assert whole == parts


def test_words_against_silence_are_infinitely_wrong_and_null_in_the_file() -> None:
    row = score([""], ["hello"], ids=["x"]).rows[0]
    assert math.isinf(row.words.rate)
    assert row.words.to_dict()["rate"] is None
    assert row.to_dict()["pred_text"] == "hello"
    assert count_errors([], []).rate == 0.0


def test_whisper_normaliser_ignores_case_punctuation_and_number_words() -> None:
    assert score(["Twenty-one men, please!"], ["21 men please"], normalise="whisper").wer == 0.0
    assert score(["Ünä, dos!"], ["ünä dos"], normalise="whisper-basic").wer == 0.0


def test_unknown_normaliser_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(OptionError, match="wisper"):
        normaliser("wisper")
    with pytest.raises(OptionError, match="2 references, 1 hypotheses"):
        score(["a", "b"], ["a"])
