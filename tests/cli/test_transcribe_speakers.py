"""`aronnax transcribe --diarize`: the bundled recogniser's words with a diarizer's speakers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import aronnax
from aronnax.cli.main import main
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.results.spoken import read_spoken
from aronnax.collections.diarization.joining import join, transcribe_speakers
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.errors import AudioError
from aronnax.core.loading import load
from tests.diarization.conftest import tiny

RECORDINGS = Path(aronnax.__file__).parent / "bundled" / "recordings"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def diarizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diarizer") / "tiny"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(diarizer: Path) -> tuple[SpeechRecognizer, SortformerModel]:
    recogniser, told = load("digits", device="cpu"), load(diarizer, device="cpu")
    assert isinstance(recogniser, SpeechRecognizer)
    assert isinstance(told, SortformerModel)
    return recogniser, told


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process: its exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["transcribe", *map(str, arguments), "-m", "digits", "--device", "cpu"])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    yield command
    package = logging.getLogger("aronnax")
    package.handlers.clear()
    package.setLevel(logging.NOTSET)


def test_words_of_one_model_get_the_speakers_of_another(
    models: tuple[SpeechRecognizer, SortformerModel],
) -> None:
    recogniser, diarizer = models
    found = transcribe_speakers(recogniser, diarizer, RECORDINGS / "pi.flac", diarization={"onset": 0.3})
    plain = recogniser.transcribe(RECORDINGS / "pi.flac")
    told = diarizer.diarize(RECORDINGS / "pi.flac", onset=0.3)
    assert found == join(plain, told)
    assert found.text == plain.text
    assert all(word.speaker for word in found.words)
    listed = transcribe_speakers(
        recogniser, diarizer, [(np.zeros(8000, np.float32), 8000), RECORDINGS / "pi.flac"]
    )
    assert [len(one.words) for one in listed] == [0, len(plain.words)]
    with (RECORDINGS / "pi.flac").open("rb") as file:
        assert (
            transcribe_speakers(recogniser, diarizer, file, diarization={"onset": 0.3}).words == found.words
        )


def test_a_recording_only_the_diarizer_cannot_read_is_an_error(
    models: tuple[SpeechRecognizer, SortformerModel],
) -> None:
    with pytest.raises(AudioError):
        transcribe_speakers(*models, "no/such.wav")


def test_every_format_has_the_speakers(run: Run, diarizer: Path, tmp_path: Path) -> None:
    formats = ["txt", "srt", "vtt", "json", "ctm", "stm"]
    options = [word for name in formats for word in ("--format", name)]
    status, _, said = run(RECORDINGS / "pi.flac", "--diarize", diarizer, "-o", tmp_path, *options)
    assert status == 0, said
    assert (tmp_path / "pi.txt").read_text().startswith("SPEAKER 1: ")
    assert "\nSPEAKER 1: " in (tmp_path / "pi.srt").read_text()
    assert "<v SPEAKER 1>" in (tmp_path / "pi.vtt").read_text()
    assert json.loads((tmp_path / "pi.json").read_text())["segments"][0]["speaker"] == "SPEAKER 1"
    assert "SPEAKER_1" in (tmp_path / "pi.ctm").read_text()
    assert read_spoken(tmp_path / "pi.stm")["pi"][0].speaker == "SPEAKER_1"


def test_without_diarize_nothing_changes(run: Run, models: tuple[SpeechRecognizer, SortformerModel]) -> None:
    _, printed, _ = run(RECORDINGS / "pi.flac")
    assert printed == f"{models[0].transcribe(RECORDINGS / 'pi.flac').text}\n"


def test_diarize_without_a_name_takes_the_default(
    run: Run, diarizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aronnax.cli.hearing.default_diarizer", lambda: str(diarizer))
    status, printed, _ = run(RECORDINGS / "pi.flac", "--diarize")
    assert status == 0
    assert printed.startswith("SPEAKER 1: ")


def test_a_number_of_speakers_is_kept(run: Run) -> None:
    conversation = RECORDINGS / "conversation.ogg"
    status, printed, _ = run(conversation, "--diarize", "diarizer-small", "--speakers", 2)
    assert status == 0
    assert [line.split(":")[0] for line in printed.splitlines()] == ["SPEAKER 1", "SPEAKER 2"] * 2


def test_a_bad_recording_does_not_stop_the_others(run: Run, diarizer: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")
    status, _, said = run(
        tmp_path / "broken.wav", RECORDINGS / "pi.flac", "--diarize", diarizer, "-o", tmp_path / "o"
    )
    assert status == 1
    assert "broken.wav" in said
    assert (tmp_path / "o" / "pi.txt").read_text().startswith("SPEAKER 1: ")


def test_a_call_keeps_its_channels_apart(run: Run, diarizer: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(RECORDINGS / "pi.flac", dtype="float32")
    soundfile.write(tmp_path / "call.wav", np.stack([samples, np.zeros_like(samples)], 1), rate)
    status, printed, _ = run(
        tmp_path / "call.wav", "--diarize", diarizer, "--channels", "apart", "-f", "json"
    )
    assert status == 0
    assert json.loads(printed)["words"][0]["speaker"].startswith("SPEAKER ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--diarize", "digits"], "digits holds a HybridModel, which does not diarize"),
        (["--diarize", "DIARIZER", "--no-timestamps"], "--diarize needs the times of words"),
        (["--diarize", "DIARIZER", "--channels", "left"], "'mix' or 'apart'"),
        (["--diarize", "DIARIZER", "--speakers", "9"], "--speakers 9 is outside 1..4"),
        (["--speakers", "2"], "--speakers and --channels are for --diarize"),
        (["again.wav", "--diarize", "DIARIZER"], "2 inputs cannot be printed as one txt: give --out FOLDER"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Run, diarizer: Path, arguments: list[str], said: str
) -> None:
    named = [str(diarizer) if word == "DIARIZER" else word for word in arguments]
    status, _, error = run(RECORDINGS / "pi.flac", *named)
    assert status == 2
    assert said in error
