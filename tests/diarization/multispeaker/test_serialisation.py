"""Sessions as texts and back."""

import random
from itertools import pairwise

import pytest

from aronnax.collections.common.text import CharacterTokenizer
from aronnax.collections.diarization.multispeaker.serialisation import (
    Run,
    Utterance,
    by_speaker,
    deserialise,
    encode,
    runs_of,
    serialise,
    token_runs,
)
from aronnax.core.errors import OptionError

TOKENS = ("<|spltoken{}|>", "<|spk{}|>", "[{}]")
WORDS = ("one", "two,", "l'été", "straße.", "<", "|>", "<|en|>", "7", "...")


def drawn(chance):
    """Some utterances of up to eight speakers, overlapping as they like."""
    found = []
    for _ in range(chance.randrange(7)):
        words = tuple(chance.choice(WORDS) for _ in range(chance.randint(1, 5)))
        start = chance.uniform(0, 10)
        starts = tuple(
            start + sum(chance.uniform(0, 0.5) for _ in range(place)) for place in range(len(words))
        )
        found.append(Utterance(chance.randrange(8), words, tuple(sorted(starts))))
    return found


@pytest.mark.parametrize("level", ["word", "segment"])
@pytest.mark.parametrize("token", TOKENS)
def test_any_session_comes_back_from_its_text(level, token):
    chance = random.Random(f"{level} {token}")
    for _ in range(300):
        runs = runs_of(drawn(chance), level)
        assert deserialise(serialise(runs, token), token) == runs


@pytest.mark.parametrize("level", ["word", "segment"])
def test_no_word_is_lost_and_each_speaker_keeps_their_order(level):
    chance = random.Random(3)
    for _ in range(200):
        session = drawn(chance)
        runs = runs_of(session, level)
        for speaker in range(8):
            own = sorted(
                (utterance for utterance in session if utterance.speaker == speaker),
                key=lambda utterance: utterance.starts[0],
            )
            apart = all(a.starts[-1] < b.starts[0] for a, b in pairwise(own))
            said = [word for run in runs if run.speaker == speaker for word in run.words]
            expected = [word for utterance in own for word in utterance.words]
            assert sorted(said) == sorted(expected)
            assert not apart or said == expected


def test_words_of_two_at_once_take_turns_and_segments_do_not():
    session = [Utterance(1, ("six", "five"), (0.3, 0.8)), Utterance(0, ("one", "two"), (0.0, 0.5))]
    assert serialise(runs_of(session, "word"), "<|{}|>") == "<|0|> one <|1|> six <|0|> two <|1|> five"
    assert serialise(runs_of(session, "segment"), "<|{}|>") == "<|0|> one two <|1|> six five"


def test_text_before_any_token_is_the_first_speakers_and_empty_runs_are_left_out():
    assert deserialise("hello <|1|> <|0|> you <|1|>", "<|{}|>") == [Run(0, ("hello",)), Run(0, ("you",))]
    assert deserialise("", "<|{}|>") == []
    assert by_speaker([Run(0, ("a",)), Run(0, ("b",)), Run(1, ("c",))]) == [
        Run(0, ("a", "b")),
        Run(1, ("c",)),
    ]


@pytest.mark.parametrize("word", ["two words", "", "<|spltoken3|>", "a<|spltoken0|>"])
def test_a_word_that_would_not_come_back_is_refused(word):
    with pytest.raises(OptionError, match="cannot be a word of a session"):
        serialise([Run(0, (word,))], "<|spltoken{}|>")


def test_ids_come_back_to_runs():
    tokenizer, chance = CharacterTokenizer(["<s0>", "<s1>", " ", *"abcd"]), random.Random(0)
    for _ in range(200):
        runs = [
            Run(chance.randrange(2), tuple(chance.choice("abcd") for _ in range(chance.randint(1, 3))))
            for _ in range(chance.randrange(6))
        ]
        tokens = encode(runs, tokenizer, [0, 1])
        found = [
            Run(run.speaker, tuple(tokenizer.decode(tokens[run.start : run.stop]).split()))
            for run in token_runs(tokens, {0: 0, 1: 1})
        ]
        assert found == runs
    assert token_runs([5, 0, 1, 4, 1], {0: 0, 1: 1}) == [(0, 0, 1), (1, 3, 4)]
