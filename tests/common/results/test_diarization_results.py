from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aronnax.collections.common.results.diarization import Diarization, Turn
from aronnax.collections.common.results.rttm import read_ctm, read_rttm, read_uem, write_uem
from aronnax.core.errors import ConfigError, ManifestError

GOOD = "SPEAKER call 1 0.500 1.250 <NA> <NA> anna <NA> <NA>\n"


def written(folder: Path, text: str, name: str = "a.rttm") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_what_is_written_as_rttm_is_read_back(tmp_path: Path) -> None:
    turns = (Turn("speaker_0", 0.08, 1.2), Turn("speaker_1", 1.0, 3.333), Turn("speaker_0", 2.0, 2.5))
    found = Diarization(turns, 4.0, source="/data/the call.wav")
    assert found.speakers == ("speaker_0", "speaker_1")
    again = read_rttm(written(tmp_path, found.to_rttm()), recordings={"the_call": 4.0})["the_call"]
    for ours, theirs in zip(turns, again):
        assert (theirs.speaker, round(theirs.start, 3), round(theirs.end, 3)) == (
            ours.speaker,
            ours.start,
            ours.end,
        )


def test_json_holds_everything_and_comes_back(tmp_path: Path) -> None:
    probabilities = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)
    found = Diarization(
        (Turn("a", 0.0, 0.16, 0.5),), 0.16, probabilities, 0.08, ("a", "b"), "x.wav", "m", ("n",)
    )
    plain = json.loads(found.to_json(probabilities=True))
    again = Diarization.from_dict(plain)
    assert again.to_dict(probabilities=True) == plain
    assert np.array_equal(again.probabilities, probabilities)
    assert "probabilities" not in json.loads(found.to_json())
    with pytest.raises(ConfigError, match="duration"):
        Diarization.from_dict({"turns": []})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SPEAKER call 1 0.5\n", r"a\.rttm:2: .*at least 8 fields and this one has 4"),
        ("TURN call 1 0.5 1 <NA> <NA> anna\n", r":2: the type \(field 1\) is 'TURN'"),
        ("SPEAKER call 1 half 1 <NA> <NA> anna\n", r"the start \(field 4\) is 'half'"),
        ("SPEAKER call 1 0.5 -1 <NA> <NA> anna\n", r"the duration \(field 5\) is -1"),
        ("SPEAKER call 1 nan 1 <NA> <NA> anna\n", r"the start \(field 4\) is nan"),
        ("SPEAKER call 1 0.5 1 <NA> <NA> <NA>\n", r"the speaker \(field 8\) is missing"),
        (
            "SPEAKER other 1 0.5 1 <NA> <NA> anna\n",
            r"the recording 'other' \(field 2\) is absent; there are call",
        ),
        (
            "SPEAKER call 1 0.5 99 <NA> <NA> anna\n",
            r"ends at 99\.500 s but the recording 'call' ends at 5\.000 s",
        ),
    ],
)
def test_bad_rttm_is_refused_with_its_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        read_rttm(written(tmp_path, GOOD + line), recordings={"call": 5.0})


def test_an_absent_file_and_one_that_is_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        read_rttm(tmp_path / "none.rttm")
    path = tmp_path / "b.rttm"
    path.write_bytes(GOOD.encode() + b"\xff\xfe\n")
    with pytest.raises(ManifestError, match=r"b\.rttm:2: .*UTF-8"):
        read_rttm(path)


def test_other_lines_comments_and_zero_durations_are_passed_over(tmp_path: Path) -> None:
    text = ";; a comment\nSPKR-INFO call 1 <NA> <NA> <NA> unknown anna <NA>\n\n" + GOOD
    text += "SPEAKER call 1 3.0 0.000 <NA> <NA> bert <NA> <NA>\n"
    assert read_rttm(written(tmp_path, text)) == {"call": (Turn("anna", 0.5, 1.75),)}


def test_uem_and_ctm_are_read_and_checked(tmp_path: Path) -> None:
    regions = {"call": ((0.0, 2.0), (3.0, 5.5))}
    assert read_uem(written(tmp_path, write_uem(regions), "a.uem")) == regions
    with pytest.raises(ManifestError, match=r"b\.uem:1: the end \(field 4\)"):
        read_uem(written(tmp_path, "call 1 2.0 1.0\n", "b.uem"))
    words = read_ctm(written(tmp_path, "call 1 1.0 0.5 world 0.9 anna\ncall 1 0.1 0.5 hello\n", "a.ctm"))[
        "call"
    ]
    assert [(word.text, word.speaker, word.confidence) for word in words] == [
        ("hello", None, None),
        ("world", "anna", 0.9),
    ]
    with pytest.raises(ManifestError, match=r"b\.ctm:1: .* at least 5 fields"):
        read_ctm(written(tmp_path, "call 1 1.0\n", "b.ctm"))


def test_the_meetings_of_the_shared_data_are_read(tmp_path: Path) -> None:
    import os

    folder = Path(os.environ.get("ARONNAX_DATA", "/nowhere")) / "ami_diarization" / "rttm"
    if not folder.is_dir():
        pytest.skip("ARONNAX_DATA does not name the shared data")
    for path in sorted(folder.glob("*.rttm"))[:5]:
        assert read_rttm(path, recordings={path.stem: 30.0})[path.stem]
