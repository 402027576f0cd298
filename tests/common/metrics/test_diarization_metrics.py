"""DER and its parts, JER, cpWER and tcpWER against numbers counted by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from aronnax.collections.common.metrics.diarization import DiarizationErrors, score_diarization
from aronnax.collections.common.metrics.speaker_words import score_speaker_words
from aronnax.collections.common.results import Diarization, Transcript, Turn, Word
from aronnax.collections.common.results.spoken import Spoken, read_spoken
from aronnax.core.errors import ManifestError, MissingExtraError, OptionError

pytest.importorskip("pyannote.metrics")
pytest.importorskip("meeteval")

# A speaks 0-10, B 8-15; found are x 0-9, y 10-16: A misses 9-10, B misses 8-10 and has 15-16 too much.
REFERENCE = {"a": [Turn("A", 0.0, 10.0), Turn("B", 8.0, 15.0)]}
HYPOTHESIS = {"a": [Turn("x", 0.0, 9.0), Turn("y", 10.0, 16.0)]}


def one(**options: object) -> DiarizationErrors:
    return score_diarization(REFERENCE, HYPOTHESIS, **options)["a"]  # type: ignore[arg-type]


def parts(errors: DiarizationErrors) -> tuple[float, ...]:
    return (errors.speech, errors.missed, errors.false_alarm, errors.confusion)


def test_the_parts_are_those_counted_by_hand() -> None:
    found = one()
    assert parts(found) == pytest.approx((17, 3, 1, 0))
    assert found.der == pytest.approx(4 / 17)
    # A: 1 of 10 seconds not in common; B: 3 of 8.
    assert found.jer == pytest.approx((1 / 10 + 3 / 8) / 2)


def test_swapped_speakers_are_confusion_only_where_no_matching_helps() -> None:
    reference = {"a": [Turn("A", 0, 4), Turn("B", 4, 8), Turn("A", 8, 12)]}
    hypothesis = {"a": [Turn("1", 4, 8), Turn("2", 0, 4), Turn("1", 8, 12)]}
    found = score_diarization(reference, hypothesis)["a"]
    assert parts(found) == pytest.approx((12, 0, 0, 4))


def test_a_collar_leaves_out_both_sides_of_every_reference_boundary() -> None:
    # Out go 0-.25, 7.75-8.25, 9.75-10.25, 14.75-15.25: 1.25 s of each speaker's (0.25 + 0.5 + ... twice over 8-10).
    found = one(collar=0.25)
    assert parts(found) == pytest.approx((15.0, 2.25, 0.75, 0))


def test_overlapped_reference_speech_can_be_left_out() -> None:
    # What is left of the reference: A 0-8, B 10-15.
    assert parts(one(skip_overlap=True)) == pytest.approx((13, 0, 1, 0))


def test_only_the_regions_are_scored() -> None:
    assert parts(one(regions={"a": [(0.0, 5.0), (15.0, 20.0)]})) == pytest.approx((5, 0, 1, 0))


def test_recordings_add_up_and_one_without_hypothesis_is_missed() -> None:
    reference = {**REFERENCE, "b": [Turn("A", 1.0, 4.0)]}
    found = score_diarization(reference, HYPOTHESIS)
    assert parts(found["b"]) == pytest.approx((3, 3, 0, 0))
    assert found["b"].jer == pytest.approx(1)
    total = sum(found.values(), DiarizationErrors())
    assert total.der == pytest.approx(7 / 20)
    assert total.jer == pytest.approx((1 / 10 + 3 / 8 + 1) / 3)
    assert total.to_dict()["speakers"] == 3


def test_silence_against_silence_is_perfect_and_speech_there_is_infinitely_wrong() -> None:
    regions = {"a": [(0.0, 9.0)]}
    assert score_diarization({}, {}, regions=regions)["a"].der == 0
    loud = score_diarization({}, {"a": [Turn("x", 1, 2)]}, regions=regions)["a"]
    assert loud.der == float("inf")
    assert loud.to_dict()["der"] is None
    assert loud.jer == 1


def test_unknown_recordings_and_bad_collars_are_refused() -> None:
    with pytest.raises(OptionError, match="names 'c', which the reference does not; it names a"):
        score_diarization(REFERENCE, {"c": []})
    with pytest.raises(OptionError, match="collar=-1"):
        score_diarization(REFERENCE, HYPOTHESIS, collar=-1)
    with pytest.raises(OptionError, match="names 'c'"):
        score_speaker_words({"a": []}, {"c": []})


SAID = {"a": [Spoken("A", "one two three", 0.0, 2.0), Spoken("B", "four five", 2.0, 4.0)]}


def test_words_of_the_wrong_speaker_are_errors_twice() -> None:
    found = {"a": [Spoken("1", "one two", 0.0, 1.4), Spoken("2", "three four five", 1.4, 4.0)]}
    errors = score_speaker_words(SAID, found)["a"]
    assert (errors.cp.length, errors.cp.insertions, errors.cp.deletions, errors.cp.substitutions) == (
        5,
        1,
        1,
        0,
    )


def test_speakers_may_have_any_names_and_missing_ones_are_deleted() -> None:
    assert score_speaker_words(SAID, {"a": [*SAID["a"]][::-1]})["a"].cp.errors == 0
    one_voice = {"a": [Spoken("x", "one two three four five", 0.0, 4.0)]}
    # Either A's words are matched and B's two are both inserted and deleted.
    assert score_speaker_words(SAID, one_voice)["a"].cp.errors == 4
    assert score_speaker_words(SAID, {})["a"].cp.deletions == 5


def test_words_at_the_wrong_time_count_only_with_times() -> None:
    late = {"a": [Spoken("1", "one two three", 60.0, 62.0), Spoken("2", "four five", 2.0, 4.0)]}
    errors = score_speaker_words(SAID, late)["a"]
    assert errors.cp.errors == 0
    assert errors.tcp is not None
    assert errors.tcp.errors == 6
    timeless = {"a": [Spoken("1", "one two three"), Spoken("2", "four five")]}
    assert score_speaker_words(SAID, timeless)["a"].tcp is None


def test_texts_are_normalised_when_asked() -> None:
    loud = {"a": [Spoken("1", "One, two three!", 0.0, 2.0), Spoken("2", "four five", 2.0, 4.0)]}
    assert score_speaker_words(SAID, loud)["a"].cp.errors == 2
    assert score_speaker_words(SAID, loud, normalise="basic")["a"].cp.errors == 0


def test_stm_seglst_manifests_and_transcripts_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.stm").write_text(
        ";; comment\na 1 A 0.0 2.0 <o,f0,male> one two three\na 1 B 2 4 four five\n"
        "a 1 x 4 5 IGNORE_TIME_SEGMENT_IN_SCORING\n"
    )
    seglst = [
        {"session_id": "a", "speaker": s.speaker, "words": s.text, "start_time": s.start, "end_time": s.end}
        for s in SAID["a"]
    ]
    (tmp_path / "list.json").write_text(json.dumps(seglst))
    lines = [
        {
            "audio_filepath": "x/a.wav",
            "speaker": "A",
            "text": "one two three",
            "offset": 0.0,
            "duration": 2.0,
        },
        {"audio_filepath": "x/a.wav", "speaker": "B", "text": "four five", "offset": 2.0, "duration": 2.0},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("a.stm", "list.json", "m.jsonl"):
        assert {key: list(value) for key, value in read_spoken(tmp_path / name).items()} == SAID
    words = (Word("one", 0.0, 0.5, speaker="SPEAKER 1"), Word("two", 0.5, 1.0))
    (tmp_path / "t.json").write_text(Transcript("one two", 2.0, words, source="x/b c.wav").to_json())
    assert read_spoken(tmp_path / "t.json") == {
        "b_c": (Spoken("SPEAKER 1", "one", 0.0, 0.5), Spoken("UNKNOWN", "two", 0.5, 1.0))
    }
    assert set(read_spoken(tmp_path)) == {"a", "b_c"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.stm", "a 1 A 0.0\n", r"a.stm:1: an STM line has at least 5 fields"),
        ("a.stm", "a 1 A 3.0 x hello\n", r"a.stm:1: the end \(field 5\) is 'x'"),
        ("a.stm", "a 1 A 3.0 2.0 hello\n", "before the start"),
        ("a.jsonl", '{"audio_filepath": "a.wav", "text": "x"}\n{"b"', "a.jsonl:1: the field speaker is None"),
        ("a.jsonl", "{}\n{nonsense\n", "a.jsonl:1: the field audio_filepath is None"),
        ("a.jsonl", "nonsense\n", "a.jsonl:1: not JSON"),
        (
            "a.json",
            '[{"session_id": "a", "speaker": "A", "words": "x", "start_time": "1"}]',
            "segment 1: .*start_time",
        ),
        ("a.json", "[3]", "int instead of an object"),
        ("a.json", '{"text": "x", "segments": []}', "duration"),
    ],
)
def test_malformed_files_are_named_with_line_and_field(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=said):
        read_spoken(tmp_path / name)


def test_absent_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be opened"):
        read_spoken(tmp_path / "gone.json")
    with pytest.raises(ManifestError, match="holds no file"):
        read_spoken(tmp_path)


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyannote", "pyannote.metrics", "meeteval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pyannote.metrics.*aronnax\[meeting\]"):
        score_diarization(REFERENCE, HYPOTHESIS)
    with pytest.raises(MissingExtraError, match=r"meeteval.*aronnax\[meeting\]"):
        score_speaker_words(SAID, SAID)


def test_diarizations_of_a_model_score_as_their_turns() -> None:
    found = Diarization(tuple(HYPOTHESIS["a"]), 20.0, source="x/a.wav")
    assert score_diarization(REFERENCE, {found.recording: found.turns})["a"] == one()
