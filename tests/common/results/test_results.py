"""Results: what is written can be read back, and subtitles can be read by people."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from aronnax.collections.common.results import FORMATS, Segment, Transcript, Word, write
from aronnax.collections.common.results.cues import COLUMNS, cues, width
from aronnax.collections.common.results.writers import clock
from aronnax.core.errors import AronnaxError, ConfigError, OptionError


def spoken(text: str, *, start: float = 0.0, step: float = 0.4, speaker: str | None = None) -> Transcript:
    words = tuple(
        Word(word, start + i * step, start + (i + 1) * step, 0.9, speaker)
        for i, word in enumerate(text.split())
    )
    segment = Segment(text, words[0].start, words[-1].end, 0.9, words)
    return Transcript(text, words[-1].end + 1, words, (segment,), "tiny", "/somewhere/a talk.wav")


def test_a_transcript_prints_as_its_text() -> None:
    assert str(spoken("hello there")) == "hello there"


def test_a_transcript_survives_the_round_trip_through_json() -> None:
    transcript = spoken("Ça va? «Très bien»")
    assert Transcript.from_dict(json.loads(transcript.to_json())) == transcript
    with_speaker = spoken("hello", speaker="Ann")
    assert Transcript.from_dict(json.loads(with_speaker.to_json())) == with_speaker
    empty = Transcript("", 0.0)
    assert Transcript.from_dict(json.loads(empty.to_json())) == empty


def test_json_holds_what_is_promised() -> None:
    plain = json.loads(spoken("hello there").to_json())
    assert {"text", "duration", "words", "segments", "model"} <= plain.keys()
    assert plain["words"][0] == {"text": "hello", "start": 0.0, "end": 0.4, "confidence": 0.9}
    assert plain["segments"][0]["words"] == plain["words"]


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="'duration'"):
        Transcript.from_dict({"text": "hello"})


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "00:00:00,000"),
        (0.0004, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (7384.08, "02:03:04,080"),
        (360000, "100:00:00,000"),
    ],
)
def test_clock_carries_rounding_and_counts_hours(seconds: float, expected: str) -> None:
    assert clock(seconds, ",") == expected


def test_srt_numbers_its_cues_and_writes_hours() -> None:
    transcript = spoken("one two", start=7200.0)
    assert transcript.to_srt() == "1\n02:00:00,000 --> 02:00:00,800\none two\n"


def test_vtt_has_its_header_and_escapes_markup() -> None:
    text = spoken("if a<b && b>c --> stop").to_vtt()
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "a&lt;b &amp;&amp; b&gt;c --&gt; stop" in text


def test_an_arrow_in_srt_text_cannot_be_taken_for_a_time_line() -> None:
    body = spoken("go --> there").to_srt().splitlines()[2]
    assert "-->" not in body


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_transcript_is_written_in_every_format(name: str) -> None:
    content = write(Transcript("", 0.0), name)
    expected = {"txt": "\n", "srt": "", "ctm": "", "stm": "", "vtt": "WEBVTT\n"}
    assert name == "json" or content == expected[name]


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'doc'.*txt, json, srt, vtt, ctm"):
        write(Transcript("", 0.0), "doc")


def test_cues_are_at_most_two_lines_of_42_columns_and_keep_every_word() -> None:
    text = " ".join(["a", "considerable", "number", "of", "words", "spoken", "unhurriedly"] * 30)
    found = cues(spoken(text))
    assert all(1 <= len(cue.lines) <= 2 for cue in found)
    assert max(width(line) for cue in found for line in cue.lines) <= COLUMNS
    assert " ".join(line for cue in found for line in cue.lines) == text
    assert len(found) < len(text) / COLUMNS  # cues are filled, not one word each


def test_the_two_lines_of_a_cue_are_balanced() -> None:
    (cue,) = cues(spoken("the quick brown fox jumps over the lazy dog today"))
    assert abs(width(cue.lines[0]) - width(cue.lines[1])) < 8


def test_cues_rise_and_never_overlap() -> None:
    found = cues(spoken(" ".join(["word"] * 200), step=0.08))
    assert all(cue.start < cue.end for cue in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_words_wider_than_a_line_are_cut_and_keep_their_time() -> None:
    found = cues(spoken("x" * 200, step=20.0))
    assert max(width(line) for cue in found for line in cue.lines) <= COLUMNS
    assert "".join(line for cue in found for line in cue.lines) == "x" * 200
    assert found[0].start == 0.0
    assert found[-1].end == 20.0


def test_wide_characters_count_as_two_columns() -> None:
    found = cues(spoken("日" * 43))
    assert max(len(line) for cue in found for line in cue.lines) <= 21


def test_a_transcript_without_words_still_makes_cues_over_its_duration() -> None:
    found = cues(Transcript(" ".join(["word"] * 60), 60.0))
    assert found[0].start == 0.0
    assert found[-1].end == pytest.approx(60.0)
    assert sum(len(line.split()) for cue in found for line in cue.lines) == 60


def test_a_very_short_cue_stays_long_enough_to_read_but_not_past_the_recording() -> None:
    words = (Word("hi", 1.0, 1.0, 0.5), Word("you", 1.2, 1.28, 0.5))
    segments = tuple(Segment(w.text, w.start, w.end, 0.5, (w,)) for w in words)
    first, second = cues(Transcript("hi you", 1.4, words, segments))
    assert (first.start, first.end) == (1.0, 1.2)
    assert (second.start, second.end) == (1.2, 1.4)


def test_a_new_speaker_opens_a_new_cue_with_the_name() -> None:
    words = (Word("hi", 0.0, 0.4, 0.5, "Ann"), Word("hello", 0.4, 0.8, 0.5, "Bo<b"))
    transcript = Transcript("hi hello", 1.0, words, (Segment("hi hello", 0.0, 0.8, 0.5, words),))
    assert "<v Ann>hi" in transcript.to_vtt()
    assert "<v Bo&lt;b>hello" in transcript.to_vtt()
    assert "Ann: hi" in transcript.to_srt()


def test_ctm_lines_have_six_fields_whatever_the_names_hold() -> None:
    lines = spoken("hello there").to_ctm().splitlines()
    assert lines[0] == "a_talk 1 0.000 0.400 hello 0.9000"
    assert all(len(line.split()) == 6 for line in lines)
    no_confidence = Transcript("a", 1.0, (Word("a", 0.0, 0.5),))
    assert no_confidence.to_ctm() == "audio 1 0.000 0.500 a\n"


def test_line_breaks_in_the_text_cannot_break_a_file_apart() -> None:
    word = Word("two\n\nlines", 0.0, 1.0, 0.5)
    transcript = Transcript(word.text, 1.0, (word,), (Segment(word.text, 0.0, 1.0, 0.5, (word,)),))
    assert transcript.to_txt() == "two lines\n"
    assert re.fullmatch(r"1\n\S+ --> \S+\ntwo lines\n", transcript.to_srt())
    assert len(transcript.to_ctm().splitlines()) == 1


def test_a_number_that_json_cannot_hold_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Transcript("", float("nan")).to_json()
    assert issubclass(ConfigError, AronnaxError)
