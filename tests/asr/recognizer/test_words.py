"""Words and segments: integer frames in, rising seconds out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from aronnax.collections.asr.words import Clock, segments_of, words_of
from aronnax.collections.common.results import Word
from aronnax.collections.common.text import CharacterTokenizer, WordPieceTokenizer

CLOCK = Clock(samples_per_frame=1280, sample_rate=16000, offset=0, stop=16000 * 3600)
LETTERS = CharacterTokenizer([" ", *"abcdefghijklmnopqrstuvwxyz", ".", ",", "?"])
PIECES = ["[UNK]", "hello", "wor", "##ld", ",", ".", "##s", "-", "how", "are", "you", "?"]


@dataclass
class Spoken:
    tokens: list[int]
    frames: list[int]
    durations: list[int]
    confidences: list[float] = field(default_factory=list)
    score: float = 0.0


def spell(text: str, *, step: int = 2) -> Spoken:
    tokens = LETTERS.encode(text)
    return Spoken(tokens, [i * step for i in range(len(tokens))], [1] * len(tokens), [0.9] * len(tokens))


def wordpieces() -> WordPieceTokenizer:
    return WordPieceTokenizer(PIECES)


def test_a_separator_ends_a_word_and_takes_no_time() -> None:
    words = words_of(spell("ab cd"), LETTERS, CLOCK)
    assert [(word.text, word.start, word.end) for word in words] == [("ab", 0.0, 0.24), ("cd", 0.48, 0.72)]


def test_pieces_open_words_and_continuations_join_them() -> None:
    tokenizer = wordpieces()
    hypothesis = Spoken([1, 2, 3, 6], [0, 10, 12, 14], [2, 1, 1, 3], [0.9, 0.8, 0.3, 0.7])
    hello, worlds = words_of(hypothesis, tokenizer, CLOCK)
    assert (hello.text, hello.start, hello.end, hello.confidence) == ("hello", 0.0, 0.16, 0.9)
    assert (worlds.text, worlds.start, worlds.end, worlds.confidence) == ("worlds", 0.8, 1.36, 0.3)


def test_punctuation_joins_the_word_before_it_and_takes_no_time_or_confidence() -> None:
    tokenizer = wordpieces()
    hypothesis = Spoken([1, 4, 2, 3, 5], [0, 9, 10, 11, 30], [2, 1, 1, 1, 1], [0.9, 0.1, 0.9, 0.9, 0.1])
    words = words_of(hypothesis, tokenizer, CLOCK)
    assert [word.text for word in words] == ["hello,", "world."]
    assert [word.end for word in words] == [0.16, 0.96]
    assert [word.confidence for word in words] == [0.9, 0.9]


def test_punctuation_alone_is_a_word() -> None:
    (word,) = words_of(Spoken([5], [4], [1], [0.5]), wordpieces(), CLOCK)
    assert (word.text, word.start, word.end, word.confidence) == (".", 0.32, 0.4, 0.5)


def test_seconds_are_divided_once_so_that_two_hours_are_exact() -> None:
    frames = [0, 45_000, 90_000]
    words = words_of(Spoken([1, 1, 1], frames, [1, 1, 1], []), wordpieces(), CLOCK)
    assert [word.start for word in words] == [0.0, 3600.0, 3600.0]  # the clock's recording is an hour long
    longer = Clock(1280, 16000, 0, 16000 * 7300)
    words = words_of(Spoken([1, 1, 1], frames, [1, 1, 1], []), wordpieces(), longer)
    assert [word.start for word in words] == [0.0, 3600.0, 7200.0]
    assert words[-1].end == 7200.08
    assert words[-1].confidence is None


def test_words_are_cut_at_the_end_of_the_audio() -> None:
    clock = Clock(1280, 16000, offset=0, stop=16000)
    words = words_of(Spoken([1, 1], [0, 12], [3, 8], [1.0, 1.0]), wordpieces(), clock)
    assert words[-1].end == 1.0


def test_a_piece_of_the_recording_is_shifted_by_its_offset() -> None:
    clock = Clock(1280, 16000, offset=160_000, stop=320_000)
    (word,) = words_of(Spoken([1], [10], [2], [1.0]), wordpieces(), clock)
    assert (word.start, word.end) == (10.8, 10.96)


def test_padding_in_front_is_taken_off_and_times_stay_inside_the_recording() -> None:
    clock = Clock(1280, 16000, offset=-4000, stop=8000)
    words = words_of(Spoken([1, 1, 1], [0, 5, 11], [3, 2, 4], []), wordpieces(), clock)
    assert [(word.start, word.end) for word in words] == [(0.0, 0.0), (0.15, 0.31), (0.5, 0.5)]


def test_random_hypotheses_give_rising_words_inside_their_segments() -> None:
    tokenizer = wordpieces()
    chance = random.Random(0)
    for _ in range(200):
        count = chance.randrange(40)
        frames = sorted(chance.randrange(200) for _ in range(count))
        tokens = [chance.randrange(1, len(PIECES)) for _ in range(count)]
        durations = [chance.randrange(5) for _ in range(count)]
        clock = Clock(1280, 16000, chance.randrange(-8000, 8000), 200_000)
        words = words_of(Spoken(tokens, frames, durations, [0.5] * count), tokenizer, clock)
        segments = segments_of(words)
        assert " ".join(word.text for word in words) == tokenizer.decode(tokens)
        assert all(0 <= word.start <= word.end <= 12.5 for word in words)
        assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(words))
        assert all(a.end <= b.start or a.start == b.start for a, b in pairwise(words))
        assert [word for segment in segments for word in segment.words] == words
        assert all(s.start <= w.start and w.end <= s.end for s in segments for w in s.words)


def word(text: str, start: float, end: float, confidence: float | None = 0.5) -> Word:
    return Word(text, start, end, confidence)


def test_segments_end_at_sentence_ends_and_at_silences() -> None:
    words = [word("a", 0, 1), word("b.", 1, 2), word("c", 2.1, 3), word("d", 3.9, 5), word("e?", 6, 7)]
    assert [segment.text for segment in segments_of(words)] == ["a b.", "c d", "e?"]
    assert [segment.text for segment in segments_of(words, gap=0.5)] == ["a b.", "c", "d", "e?"]
    assert segments_of([]) == []


def test_the_confidence_of_a_segment_is_weighted_by_duration() -> None:
    (segment,) = segments_of([word("long", 0.0, 3.0, 1.0), word("short", 3.0, 4.0, 0.2)])
    assert segment.confidence == pytest.approx(0.8)
    (instant,) = segments_of([word("a", 0.0, 0.0, 1.0), word("b", 0.0, 0.0, 0.5)])
    assert instant.confidence == pytest.approx(0.75)
    (unknown,) = segments_of([word("a", 0.0, 1.0, None)])
    assert unknown.confidence is None
