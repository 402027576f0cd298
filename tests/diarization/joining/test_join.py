"""The rule by which words find their speakers, case by case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aronnax.collections.common.results import Diarization, Transcript, Turn, Word, write
from aronnax.collections.common.results.rttm import read_ctm
from aronnax.collections.diarization.joining import join
from aronnax.core.errors import OptionError


def transcript(*words: Word) -> Transcript:
    return Transcript(" ".join(word.text for word in words), 10.0, words, source="a call.wav")


def said(found: Transcript) -> list[str | None]:
    return [word.speaker for word in found.words]


TALK = transcript(
    Word("good", 0.5, 0.9, 0.9),
    Word("day", 1.0, 1.4, 0.8),
    Word("hello", 2.1, 2.6, 0.7),
    Word("yes", 3.0, 3.2),
)
TURNS = Diarization((Turn("b", 0.4, 1.5), Turn("a", 2.0, 2.7), Turn("b", 2.9, 3.3)), 10.0)


def test_words_get_the_speaker_of_their_turn_numbered_by_arrival() -> None:
    found = join(TALK, TURNS)
    assert said(found) == ["SPEAKER 1", "SPEAKER 1", "SPEAKER 2", "SPEAKER 1"]
    assert [(segment.text, segment.speaker) for segment in found.segments] == [
        ("good day", "SPEAKER 1"),
        ("hello", "SPEAKER 2"),
        ("yes", "SPEAKER 1"),
    ]
    assert found.text == TALK.text
    assert found.notes == ()
    assert said(join(TALK, TURNS, numbered=False)) == ["b", "b", "a", "b"]


def test_where_turns_overlap_the_larger_probability_mass_over_the_word_wins() -> None:
    probabilities = np.zeros((10, 2), np.float32)
    probabilities[0:6, 0] = 0.9
    probabilities[4:10, 1] = [0.6, 0.8, 0.9, 0.9, 0.9, 0.9]
    both = Diarization(
        (Turn("a", 0.0, 6.0), Turn("b", 4.0, 10.0)), 10.0, probabilities, 1.0, names=("a", "b")
    )
    # Of [4, 6]: a 1.8, b 1.4. Of [4.5, 6.6]: a 0.9 * 1.5, b 0.3 + 0.8 + 0.54.
    found = join(transcript(Word("x", 4.0, 6.0), Word("y", 4.5, 6.6)), both)
    assert said(found) == ["SPEAKER 1", "SPEAKER 2"]


def test_without_probabilities_the_overlap_with_the_turns_counts() -> None:
    both = Diarization((Turn("a", 0.0, 2.0), Turn("b", 1.0, 5.0), Turn("b", 2.0, 4.0)), 10.0)
    assert said(join(transcript(Word("x", 0.5, 1.9), Word("y", 1.5, 2.6)), both)) == [
        "SPEAKER 1",
        "SPEAKER 2",
    ]


def test_ties_go_to_who_spoke_last_and_at_first_to_who_arrived_first() -> None:
    both = Diarization((Turn("a", 0.0, 3.0), Turn("b", 1.0, 5.0)), 10.0)
    first = join(transcript(Word("x", 1.2, 1.8)), both)
    later = join(transcript(Word("w", 4.0, 4.2), Word("x", 1.2, 1.8)), both, numbered=False)
    assert said(first) == ["SPEAKER 1"]
    assert said(later) == ["b", "b"]


def test_words_outside_of_turns_go_to_the_nearest_within_the_limit() -> None:
    two = Diarization((Turn("a", 1.0, 2.0), Turn("b", 4.0, 5.0)), 20.0)
    words = transcript(
        Word("early", 0.2, 0.5), Word("near", 2.3, 2.4), Word("nearer", 3.4, 3.8), Word("late", 6.1, 6.2)
    )
    found = join(words, two)
    assert said(found) == ["SPEAKER 1", "SPEAKER 1", "SPEAKER 2", None]
    assert found.notes == ("1 of 4 words lie more than 1 s from any turn",)
    assert said(join(words, two, limit=0.3)) == [None, "SPEAKER 1", "SPEAKER 2", None]
    assert said(join(words, two, numbered=False)) == ["a", "a", "b", None]
    assert write(found, "txt").splitlines()[-1] == "UNKNOWN: late"


def test_turns_far_behind_the_transcript_are_noted() -> None:
    words = Transcript("one", 3.0, (Word("one", 0.5, 0.9),))
    near, far = (Diarization((Turn("a", 0.0, 1.0), Turn("b", 2.0, end)), 20.0) for end in (3.9, 12.0))
    assert join(words, near).notes == ()
    (note,) = join(words, far).notes
    assert "12.0 s" in note
    assert "3.0 s" in note


def test_words_without_duration_are_found_a_speaker() -> None:
    assert said(join(transcript(Word("x", 1.5, 1.5)), TURNS)) == ["SPEAKER 1"]


def test_nobody_speaking_leaves_words_alone() -> None:
    found = join(TALK, Diarization((), 10.0))
    assert said(found) == [None] * 4
    assert write(found, "txt") == "good day hello yes\n"


def test_every_format_names_the_speakers(tmp_path) -> None:
    found = join(TALK, TURNS)
    assert found.to_txt() == "SPEAKER 1: good day\nSPEAKER 2: hello\nSPEAKER 1: yes\n"
    assert "\nSPEAKER 2: hello\n" in found.to_srt()
    assert "<v SPEAKER 2>hello" in found.to_vtt()
    plain = json.loads(found.to_json())
    assert [segment["speaker"] for segment in plain["segments"]] == ["SPEAKER 1", "SPEAKER 2", "SPEAKER 1"]
    assert plain["words"][2]["speaker"] == "SPEAKER 2"
    assert Transcript.from_dict(plain) == found
    assert found.to_stm().splitlines()[1] == "a_call 1 SPEAKER_2 2.100 2.600 hello"
    (tmp_path / "a.ctm").write_text(found.to_ctm())
    words = read_ctm(tmp_path / "a.ctm")["a_call"]
    assert [(word.speaker, word.confidence) for word in words][2:] == [
        ("SPEAKER_2", 0.7),
        ("SPEAKER_1", None),
    ]


def test_a_transcript_without_word_times_is_refused() -> None:
    with pytest.raises(OptionError, match="timestamps=True"):
        join(Transcript("hello", 1.0), TURNS)
    assert join(Transcript("", 1.0), TURNS).words == ()
    with pytest.raises(OptionError, match="limit=-1"):
        join(TALK, TURNS, limit=-1)


def test_an_hour_of_words_is_joined_in_a_moment() -> None:
    words = tuple(Word("w", 0.3 * i, 0.3 * i + 0.25) for i in range(12000))
    turns = tuple(Turn(f"{i % 4}", 2.0 * i, 2.0 * i + 2) for i in range(1800))
    found = join(Transcript("w", 3600.0, words), Diarization(turns, 3600.0))
    assert said(found)[7] == "SPEAKER 2"
