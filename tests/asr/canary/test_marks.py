"""Times from the marks a model writes, and loops cut off."""

import pytest

from aronnax.collections.asr.canary.guards import loop, stop_at_loop
from aronnax.collections.asr.canary.marks import times_from_marks

FRAME_OF = {100 + n: n for n in range(20)}


def test_words_get_the_frames_between_their_marks():
    said = times_from_marks([103, 1, 105, 107, 2, 3, 111], FRAME_OF, [0.1] * 7)
    assert said.tokens == [1, 2, 3]
    assert said.frames == [3, 7, 9]
    assert said.durations == [2, 2, 2]
    assert len(said.confidences) == 3


def test_marks_that_go_back_or_are_missing_never_make_times_fall():
    said = times_from_marks([105, 1, 103, 2, 102, 106, 3], FRAME_OF)
    assert said.frames == sorted(said.frames)
    assert all(duration >= 0 for duration in said.durations)
    assert said.tokens == [1, 2, 3]


def test_text_without_marks_keeps_its_tokens():
    assert times_from_marks([1, 2], FRAME_OF).tokens == [1, 2]


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([4, *[7] * 30], 2),
        ([4, *[7, 8] * 10], 3),
        ([4, *[7, 8, 9, 6] * 5, 7], 5),
        ([7, 7, 7, 7, 7], None),
        ([1, 2, 1, 2, 1, 2], None),
        ([], None),
    ],
)
def test_a_loop_is_cut_after_its_first_time(tokens, kept):
    assert stop_at_loop(0, tokens) == kept


def test_a_loop_is_seen_as_soon_as_it_is_long_enough():
    tokens = [1, 2, 3, *[5, 6] * 8]
    assert loop(tokens) == (3, 2)
    assert loop(tokens[:-1]) is None
