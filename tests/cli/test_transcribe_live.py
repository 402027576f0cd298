"""`aronnax transcribe --live`: words printed while speech comes in."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aronnax.cli import live_words
from aronnax.cli.main import main
from aronnax.collections.speechlm.bestow.model import BESTOW
from aronnax.collections.speechlm.bestow.waitk import WaitK
from tests.speechlm.bestow.conftest import bestow, signal

Run = Callable[..., tuple[int, str, str]]
HEARD = signal(3.0)


def small() -> BESTOW:
    """A model that answers in at most 15 tokens."""
    return bestow(context=20)


def pcm() -> bytes:
    return (HEARD.numpy() * 8192).clip(-32768, 32767).astype("<i2").tobytes()


def heard() -> np.ndarray:
    return np.frombuffer(pcm(), "<i2") / np.float32(32768)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small().save_pretrained(tmp_path_factory.mktemp("live") / "model")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object, model: object = folder) -> tuple[int, str, str]:
        words = ["aronnax", "transcribe", *map(str, arguments), "-m", str(model), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(pcm())))
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def test_what_is_printed_is_what_the_stream_writes(run: Run) -> None:
    status, printed, _ = run("--live", "-", "--wait", 2, "--stride", 4)
    assert status == 0
    assert printed == small().stream(WaitK(2, 4)).listen(heard()).text + "\n"


def test_another_question_is_asked_about_what_is_heard(run: Run) -> None:
    status, printed, _ = run("--live", "-", "--wait", 2, "--prompt", "how many")
    assert status == 0
    assert printed == small().stream(WaitK(2, 4), prompt="how many").listen(heard()).text + "\n"
    assert printed != run("--live", "-", "--wait", 2)[1]


def test_options_of_other_models_are_refused(run: Run) -> None:
    status, _, said = run("--live", "-", "--keywords", "Nautilus")
    assert status == 2
    assert "it takes no --keywords" in said


def test_json_tells_each_token_with_the_seconds_heard_and_then_the_answer(run: Run) -> None:
    status, printed, _ = run("--live", "-", "--format", "json")
    stream = small().stream(WaitK(3, 4))
    reply = stream.listen(heard())
    assert status == 0
    *tokens, answer = map(json.loads, printed.splitlines())
    assert tokens == [one.to_dict() for one in stream.log.written]
    assert answer["text"] == reply.text
    assert answer["laal"] == pytest.approx(stream.log.laal())


def test_ctrl_c_writes_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> object:
        yield heard()[:2000]
        raise KeyboardInterrupt

    monkeypatch.setattr(live_words, "heard", interrupted)
    status = live_words.listen(small(), ["-"], live_words.LiveWords(1, 4, None), "txt")
    assert status == 130
    assert capsys.readouterr().out == small().stream(WaitK(1, 4)).listen(heard()[:2000]).text + "\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--live", "a.wav"], "not a.wav: leave --live out"),
        (["--live", "-", "--wait", 0], "wait-k: k is 0"),
        (["--live", "-", "--format", "srt"], "use txt, json"),
        (["--live", "-", "--out", "x"], "need recordings"),
        (["--live", "-", "--head", "ctc", "--vad", "energy"], "it takes no --head, --vad"),
        (["--live", "-", "--chunk", "20"], "it takes no --chunk"),
        (["--live", "-", "--language", "en", "--no-pnc"], "it takes no --language, --pnc"),
        (
            ["--live", "-", "--batch-size", 2, "--confidence", "none"],
            "it takes no --batch-size, --confidence",
        ),
        (["a.wav", "--wait", 2], "are for --live"),
        ([], "nothing to transcribe"),
        (["--diarize", "a.wav"], "--diarize took 'a.wav' for a diarizer's name"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, arguments: list[object], why: str) -> None:
    status, _, said = run(*arguments)
    assert status == 2
    assert why in " ".join(said.split())


def test_a_model_that_needs_whole_recordings_is_refused(run: Run) -> None:
    status, _, said = run("--live", "-", model="digits")
    assert status == 2
    assert "digits holds a HybridModel, which needs whole recordings" in " ".join(said.split())
