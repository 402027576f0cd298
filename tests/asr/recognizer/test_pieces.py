"""Long recordings cut for a model of short ones, and their hypotheses joined again."""

import itertools

import numpy as np
import pytest

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.long_form.cuts import pieces_of
from aronnax.collections.asr.long_form.joining import Part, joined
from aronnax.collections.common.audio.reading import open_audio

RATE, FRAME = 8000, 640


def stream_of(samples):
    return open_audio((samples.astype(np.float32), RATE), RATE)


def speech_with_pauses(generator, seconds, every, pause=0.5):
    samples = generator.standard_normal(round(seconds * RATE)) * 0.1
    for at in np.arange(every, seconds, every):
        samples[round((at - pause / 2) * RATE) : round((at + pause / 2) * RATE)] *= 1e-3
    return samples


def covers(pieces, samples):
    assert pieces[0].first == 0
    assert pieces[-1].last == samples
    for before, after in itertools.pairwise(pieces):
        assert before.last == after.first
    for piece in pieces:
        assert piece.start <= piece.first < piece.last <= piece.stop


def test_cuts_lie_in_the_pauses_without_overlap():
    stream = stream_of(speech_with_pauses(np.random.default_rng(0), 61.3, every=4.0))
    pieces = list(pieces_of(stream, 10.0, FRAME))
    covers(pieces, stream.samples)
    for piece in pieces[:-1]:
        assert piece.stop == piece.last
        nearest = round(piece.stop / RATE / 4.0) * 4.0
        assert abs(piece.stop / RATE - nearest) <= 0.25
    assert all(piece.stop - piece.start <= 10 * RATE for piece in pieces)
    assert all(piece.start % FRAME == 0 for piece in pieces)


def test_speech_without_pauses_is_cut_with_overlap():
    stream = stream_of(np.random.default_rng(1).standard_normal(30 * RATE) * 0.1)
    pieces = list(pieces_of(stream, 10.0, FRAME))
    covers(pieces, stream.samples)
    assert all(before.stop > after.start for before, after in itertools.pairwise(pieces))
    assert all(piece.stop - piece.start <= 10 * RATE for piece in pieces)


def test_a_short_recording_is_one_piece():
    stream = stream_of(np.zeros(5000))
    (piece,) = pieces_of(stream, 10.0, FRAME)
    assert (piece.start, piece.stop, piece.first, piece.last) == (0, 5000, 0, 5000)


@pytest.mark.parametrize("level", [0.0, 1e-9])
def test_hours_of_silence_are_cut_too(level):
    stream = stream_of(np.full(100 * RATE, level))
    covers(list(pieces_of(stream, 10.0, FRAME)), stream.samples)


def heard(tokens, frames, first, last):
    return Part(Hypothesis(list(tokens), list(frames), [1] * len(tokens), [0.5] * len(tokens)), first, last)


def test_what_both_pieces_heard_is_said_once():
    left = heard([1, 2, 3, 4, 5], [10, 50, 90, 95, 104], 0, 100)
    right = heard([3, 4, 5, 6], [90, 96, 104, 130], 100, 200)
    whole = joined([left, right])
    assert whole.tokens == [1, 2, 3, 4, 5, 6]
    assert whole.frames == sorted(whole.frames)
    assert len(whole.confidences) == len(whole.durations) == 6


def test_a_word_cut_at_the_edge_of_one_piece_comes_from_the_other():
    left = heard([1, 2, 3, 9], [10, 50, 97, 110], 0, 100)
    right = heard([8, 3, 4, 5], [88, 97, 109, 130], 100, 200)
    assert joined([left, right]).tokens == [1, 2, 3, 4, 5]


def test_without_common_tokens_each_side_keeps_its_own():
    left = heard([1, 2, 7], [10, 50, 105], 0, 100)
    right = heard([8, 4, 5], [92, 103, 130], 100, 200)
    assert joined([left, right]).tokens == [1, 2, 4, 5]


def test_the_same_word_said_twice_far_apart_stays_twice():
    left = heard([1, 7], [10, 70], 0, 100)
    right = heard([7, 5], [120, 130], 100, 200)
    assert joined([left, right]).tokens == [1, 7, 7, 5]


def test_pieces_without_overlap_are_put_one_after_the_other():
    left = heard([1, 2], [10, 99], 0, 100)
    right = heard([2, 3], [100, 130], 100, 200)
    assert joined([left, right]).tokens == [1, 2, 2, 3]


def test_a_piece_of_silence_adds_nothing():
    assert joined([heard([1], [5], 0, 100), heard([], [], 100, 200), heard([2], [205], 200, 300)]).tokens == [
        1,
        2,
    ]
