from __future__ import annotations

import sys

import pytest

from aronnax.collections.common.metrics import Scored, bleu, chrf, non_speech, normaliser, score_multitask
from aronnax.core.errors import MissingExtraError, OptionError

ENGLISH = "the house is small and very old"


def test_transcriptions_translations_and_non_speech_are_scored_apart() -> None:
    rows = [
        Scored("one two", "one too", 2.0, "en", "en"),
        Scored("das ist ein kleines altes Haus", "das ist ein kleines altes Haus", 2.0, "en", "de"),
        Scored("", "Thank you.", 30.0, "en", "de"),
        Scored("", " ", 30.0, "en", "en"),
    ]
    found = score_multitask(rows)
    metrics = found.metrics()
    assert metrics["wer"] == metrics["wer/en"] == 0.5
    assert metrics["wer/en-de"] == 0.0
    assert metrics["wer_all"] == pytest.approx(1 / 8)
    assert metrics["bleu/en-de"] == metrics["bleu"] == pytest.approx(100.0)
    assert metrics["chrf/en-de"] == pytest.approx(100.0)
    assert metrics["characters_per_minute"] == 10.0
    assert found.non_speech.silent == 1
    assert [row.hypothesis for row in found.silence_rows] == ["Thank you.", " "]


def test_the_whisper_normaliser_is_chosen_by_the_language_written() -> None:
    said = [
        Scored("Twenty-one, please!", "21 please", 1.0, "de", "en"),
        Scored("Zwei!", "zwei", 1.0, "en", "de"),
    ]
    assert score_multitask(said, "whisper").score.wer == 0.0
    german = [Scored("colour two", "color 2", 1.0, "de", "de")]
    assert score_multitask(german, "whisper").score.wer == 1.0
    assert normaliser("whisper", "en-US")("colour") == "color"


def test_one_language_without_translations_has_no_groups_of_its_own() -> None:
    assert set(score_multitask([Scored("a", "a", 1.0)]).metrics()) == {"wer", "wer_all"}
    assert set(score_multitask([Scored("", "x", 1.0)]).metrics()) == {"characters_per_minute"}
    assert score_multitask([]).metrics() == {}


def test_only_translations_still_give_a_word_error_rate() -> None:
    metrics = score_multitask([Scored("a b", "a c", 1.0, "en", "de")]).metrics()
    assert metrics["wer"] == metrics["wer/en-de"] == 0.5


def test_bleu_and_chrf_fall_with_the_words_that_differ() -> None:
    near = "the house is small and quite old"
    assert 0 < bleu([ENGLISH], [near]) < bleu([ENGLISH], [ENGLISH]) == pytest.approx(100.0)
    assert chrf([ENGLISH], ["something else"]) < chrf([ENGLISH], [near]) < 100.0
    assert bleu(["这是一个测试句子"], ["这是一个测试句子"], "zh") == pytest.approx(100.0)
    with pytest.raises(OptionError, match="1 references and 2 hypotheses"):
        bleu(["a"], ["a", "b"])


def test_characters_a_minute_add_up() -> None:
    first, second = non_speech([("abc", 60.0)]), non_speech([("", 60.0)])
    assert (first + second).rate == 1.5
    assert str(first + second).startswith("1.5 characters a minute (3 in 2.0 min; 1 of 2")
    assert non_speech([]).rate == 0.0


@pytest.mark.parametrize(
    ("module", "call"),
    [("sacrebleu", lambda: bleu(["a"], ["a"])), ("whisper_normalizer.basic", lambda: normaliser("basic"))],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, module, call) -> None:
    from aronnax.collections.common.metrics.normaliser import _whisper

    _whisper.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"aronnax\[train\]"):
        call()
    _whisper.cache_clear()
