"""`aronnax evaluate --diarization`: tables, summary, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aronnax.cli.main import main
from aronnax.collections.common.results import Diarization, Transcript, Turn, Word

pytest.importorskip("pyannote.metrics")
pytest.importorskip("meeteval")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "--diarization", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return command


def rttm(path: Path, *turns: tuple[str, str, float, float]) -> Path:
    path.write_text(
        "".join(
            f"SPEAKER {name} 1 {start} {end - start} <NA> <NA> {who} <NA> <NA>\n"
            for name, who, start, end in turns
        )
    )
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return rttm(tmp_path / "ref.rttm", ("a", "A", 0, 10), ("a", "B", 8, 15), ("b", "A", 1, 4))


@pytest.fixture
def hypothesis(tmp_path: Path) -> Path:
    return rttm(tmp_path / "hyp.rttm", ("a", "x", 0, 9), ("a", "y", 10, 16), ("b", "x", 1, 4))


def test_every_recording_and_the_whole_have_a_row(
    run: Run, reference: Path, hypothesis: Path, tmp_path: Path
) -> None:
    status, printed, _ = run(reference, hypothesis, "--out", tmp_path / "scores")
    assert status == 0
    rows = [line.split() for line in printed.splitlines()]
    assert rows[1] == ["a", "23.53", "17.65", "5.88", "0.00", "23.75", "17.0"]
    assert rows[2] == ["b", "0.00", "0.00", "0.00", "0.00", "0.00", "3.0"]
    assert rows[3] == ["all", "20.00", "15.00", "5.00", "0.00", "15.83", "20.0"]
    assert printed.splitlines()[-1] == "2 recordings, collar 0 s on each side, overlapped speech scored"
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["all"]["der"] == pytest.approx(0.2)
    assert summary["recordings"]["a"]["missed"] == pytest.approx(3)


def test_collar_overlap_and_uem_change_what_is_scored(
    run: Run, reference: Path, hypothesis: Path, tmp_path: Path
) -> None:
    _, printed, _ = run(reference, hypothesis, "--collar", 0.25, "--skip-overlap")
    assert printed.splitlines()[-1] == "2 recordings, collar 0.25 s on each side, overlapped speech left out"
    (tmp_path / "a.uem").write_text("a 1 0 5\na 1 15 20\n")
    _, printed, _ = run(reference, hypothesis, "--uem", tmp_path / "a.uem")
    assert [line.split()[:2] for line in printed.splitlines()[1:3]] == [["a", "20.00"], ["all", "20.00"]]
    assert printed.splitlines()[-1] == (
        "not scored: 1 turns of the reference run beyond the UEM, such as A until 4.000 s in b, whose regions are "
        "not there"
    )
    (tmp_path / "short.uem").write_text("a 1 0 12\nb 1 0 4\n")
    _, printed, _ = run(reference, hypothesis, "--uem", tmp_path / "short.uem")
    assert "B until 15.000 s in a, whose regions end at 12.000 s" in printed.splitlines()[-1]
    (tmp_path / "whole.uem").write_text("a 1 0 15\nb 1 0 4\n")
    assert "not scored" not in run(reference, hypothesis, "--uem", tmp_path / "whole.uem")[1]


def test_folders_of_what_diarize_writes_are_scored(run: Run, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = {
        "a": Diarization((Turn("x", 0.0, 9.0), Turn("y", 10.0, 16.0)), 20.0, source="a.wav"),
        "b": Diarization((), 5.0, source="b.wav"),
    }
    for name, diarization in found.items():
        (out / f"{name}.json").write_text(diarization.to_json())
    by_json = run(reference, out)[1]
    assert by_json.splitlines()[2].split()[:3] == ["b", "100.00", "100.00"]
    for name, diarization in found.items():
        (out / f"{name}.rttm").write_text(diarization.to_rttm())
    assert run(reference, out)[1] == by_json


def test_words_with_speakers_give_cpwer_and_tcpwer(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ref.stm").write_text("a 1 A 0 2 one two three\na 1 B 2 4 Four five\n")
    words = [
        Word(text, 0.5 * i, 0.5 * i + 0.4, speaker=f"SPEAKER {1 + (i > 1)}")
        for i, text in enumerate(("one", "two", "three", "four", "five"))
    ]
    (tmp_path / "a.json").write_text(Transcript("", 4.0, tuple(words), source="a.wav").to_json())
    status, printed, _ = run(tmp_path / "ref.stm", tmp_path / "a.json")
    assert status == 0
    rows = [line.split() for line in printed.splitlines()]
    assert rows[1] == ["a", "60.00", "60.00", "5", "1", "1", "1"]
    _, printed, _ = run(tmp_path / "ref.stm", tmp_path / "a.json", "--normalizer", "basic", "--collar", 0)
    assert printed.splitlines()[-2].split()[:2] == ["all", "40.00"]


def test_what_cannot_be_compared_is_one_sentence(
    run: Run, reference: Path, hypothesis: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.stm").write_text("a 1 A 0 2 one\n")
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.rttm"
    bad.write_text("SPEAKER a 1 zero 1 <NA> <NA> A <NA> <NA>\n")
    other = rttm(tmp_path / "other.rttm", ("c", "A", 0, 1))
    cases: list[tuple[list[object], str]] = [
        ([reference, tmp_path / "x.stm"], "cannot be compared"),
        (
            [tmp_path / "x.stm", tmp_path / "x.stm", "--skip-overlap"],
            "--uem and --skip-overlap are for turns",
        ),
        ([reference, tmp_path / "empty"], "holds no file"),
        ([reference, bad], "bad.rttm:1: the start (field 4) is 'zero', not a number of seconds"),
        ([reference, other], "the hypothesis names 'c', which the reference does not; it names a, b"),
        ([reference, tmp_path / "gone.rttm"], "gone.rttm cannot be opened"),
        ([reference, hypothesis, "--collar", -1], "--collar -1.0 must be a number of seconds"),
        ([reference, hypothesis, "--out", bad], "bad.rttm is a file; give a folder"),
    ]
    for arguments, said in cases:
        status, _, error = run(*arguments)
        assert (status, said in error) == (2, True), (said, error)


def test_speaker_options_need_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "digits", "x.jsonl", "--collar", "0.25"])
    assert "are for --diarization" in capsys.readouterr().err
