"""`aronnax transcribe`: files, stdout, exit statuses, and Ctrl-C in a real process."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

from aronnax.cli.main import main
from aronnax.cli.output_names import output_names
from aronnax.collections.asr.hybrid.model import HybridModel
from aronnax.collections.common.results import Transcript
from tests.asr.recognizer.conftest import noises

ROOT = Path(__file__).parents[3]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process: its exit status, stdout and stderr."""

    def command(*arguments: str | Path, model: str | Path = checkpoint) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["transcribe", *map(str, arguments), "-m", str(model)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    yield command
    package = logging.getLogger("aronnax")
    package.handlers.clear()
    package.setLevel(logging.NOTSET)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    for path, (samples, rate) in zip(paths, noises([4.0, 2.0], seed=1)):
        soundfile.write(path, samples, rate)
    return paths


def test_without_out_the_text_is_printed_a_line_an_input_in_their_order(
    run: Run, model: HybridModel, two: list[Path]
) -> None:
    status, out, err = run(*two)
    assert status == 0
    assert out == "".join(f"{transcript.text}\n" for transcript in model.transcribe(two))
    assert err == ""


def test_json_holds_what_is_promised(run: Run, model: HybridModel, checkpoint: Path, talk: Path) -> None:
    status, out, _ = run(talk, "--format", "json")
    assert status == 0
    plain = json.loads(out)
    assert {"text", "duration", "words", "segments", "model"} <= plain.keys()
    assert {"text", "start", "end", "confidence"} <= plain["words"][0].keys()
    assert plain["model"] == str(checkpoint)
    assert Transcript.from_dict(plain).text == model.transcribe(talk).text


def test_json_of_several_inputs_is_a_line_each(run: Run, two: list[Path]) -> None:
    _, out, _ = run(*two, two[0].parent / "gone.wav", "-f", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["source"] for line in lines[:2]] == [str(path) for path in two]
    assert lines[2] == {"source": str(two[0].parent / "gone.wav"), "error": True}


def test_files_are_written_in_every_format_asked_for(run: Run, two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    formats = ["txt", "json", "srt", "vtt", "ctm"]
    status, printed, _ = run(tmp_path, "--out", out, *(word for f in formats for word in ("--format", f)))
    assert status == 0
    assert printed == ""
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{p.stem}.{f}" for p in two for f in formats)
    assert (out / "long.vtt").read_text().startswith("WEBVTT")


def test_one_bad_file_is_reported_and_the_others_finish(run: Run, two: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("not audio at all, just words\n" * 9)
    status, _, err = run(two[0], bad, tmp_path / "gone.wav", two[1], "--out", tmp_path / "out")
    assert status == 1
    assert f"error: {bad}: " in err
    assert f"error: {tmp_path / 'gone.wav'}: no such file" in err
    assert "2 of 4 transcripts in" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["long.txt", "short.txt"]


def test_without_out_a_failed_input_is_an_empty_line(run: Run, two: list[Path], tmp_path: Path) -> None:
    status, out, _ = run(tmp_path / "gone.wav", two[1])
    assert status == 1
    assert out.splitlines()[0] == ""
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "doc"], "--format doc is not known: use txt, json, srt, vtt, ctm"),
        (["--format", "txt", "--format", "json"], "give --out"),
        (["--chunk", "huge"], "--chunk huge is not known"),
        (["--dtype", "int4"], "--dtype int4 is not known"),
        (["--head", "rnnt"], "head 'rnnt' is not one of this model's heads: tdt, ctc"),
        (["--vad", "loud"], "--vad loud is not known"),
    ],
)
def test_a_bad_option_is_one_sentence_and_status_two(
    run: Run, talk: Path, arguments: list[str], message: str
) -> None:
    status, out, err = run(talk, *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_options_reach_the_model(run: Run, model: HybridModel, talk: Path) -> None:
    _, out, _ = run(talk, "--head", "ctc", "--batch-size", "3", "--vad", "energy", "--dtype", "float32")
    assert out.strip() == model.transcribe(talk, head="ctc", vad="energy").text
    _, out, _ = run(talk, "--chunk", "1", "--language", "en", "--confidence", "none", "-f", "json")
    plain = json.loads(out)
    assert plain["language"] == "en"
    assert plain["words"][0]["confidence"] is None
    assert "chunks of 0.96 s" in plain["notes"][0]


def test_a_dash_reads_audio_from_stdin(
    run: Run, model: HybridModel, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(talk.read_bytes())))
    status, out, _ = run("-")
    assert status == 0
    assert out.strip() == model.transcribe(talk).text


def test_names_of_files_never_collide() -> None:
    assert output_names(["a/talk.wav", "b/other.flac", None]) == ["talk", "other", "audio"]
    assert output_names(["talk.wav", "talk.mp3"]) == ["talk.wav", "talk.mp3"]
    assert output_names(["a/talk.wav", "b/talk.wav", "c/TALK.wav"]) == [
        "talk.wav",
        "talk.wav-2",
        "TALK.wav-3",
    ]
    many = ["a.wav", "b/a.wav", "a.wav-2", "a.mp3", "A.wav", None, "audio.wav", ".wav"]
    names = output_names(many)
    assert len({name.lower() for name in names}) == len(many)
    assert output_names(many) == names
    assert output_names(["a.wav"] * 100_000)[-1] == "a.wav-100000"


def test_ctrl_c_keeps_what_is_done_and_says_so(checkpoint: Path, talk: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "many.jsonl"
    manifest.write_text((json.dumps({"audio_filepath": str(talk)}) + "\n") * 3000)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "aronnax",
        "transcribe",
        manifest,
        "-m",
        checkpoint,
        "-o",
        out,
        "-f",
        "json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        # A shell that runs the tests in the background lets them, and so their children, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        patience = time.monotonic() + 300
        while not (out.exists() and len(list(out.glob("*.json"))) > 20):
            assert process.poll() is None, "it stopped before it wrote anything"
            assert time.monotonic() < patience, "nothing was written for five minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    said = re.search(r"interrupted: (\d+) of 3000 transcripts are done in " + re.escape(str(out)), err)
    assert said, err
    assert "Traceback" not in err
    written = list(out.iterdir())
    assert len(written) - int(said[1]) in (0, 1)  # the signal may fall between a file and its count
    for path in written:  # every file is whole, and none is left half-made
        assert path.suffix == ".json"
        assert json.loads(path.read_text())["duration"] == 3.0


def test_loading_and_transcribing_import_nothing_that_is_slow_to_import(checkpoint: Path, talk: Path) -> None:
    code = (
        "import sys, aronnax; text = aronnax.load(sys.argv[1]).transcribe(sys.argv[2]).text;"
        "slow = {'sympy', 'torch._dynamo', 'lightning', 'lhotse', 'transformers', 'matplotlib', 'scipy'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(talk)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
