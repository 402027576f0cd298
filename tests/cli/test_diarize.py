"""`aronnax diarize`: files, stdout, pictures, exit statuses, and what comes live."""

from __future__ import annotations

import io
import json
import logging
import struct
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aronnax.cli import live
from aronnax.cli.hearing import PUBLISHED_DIARIZER, default_diarizer
from aronnax.cli.main import main
from aronnax.collections.common.results.rttm import read_rttm
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core import hub
from aronnax.core.loading import load
from tests.diarization.conftest import _session, tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diarizer") / "tiny"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> SortformerModel:
    loaded = load(checkpoint, device="cpu")
    assert isinstance(loaded, SortformerModel)
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of twelve seconds, one of six with a blank in its name, and one that is none."""
    folder = tmp_path_factory.mktemp("meetings")
    soundfile.write(folder / "a.wav", _session()[: 12 * 16000], 16000)
    soundfile.write(folder / "b c.flac", _session()[16000 : 7 * 16000], 16000)
    (folder / "broken.wav").write_bytes(b"RIFFnothing")
    return folder


@pytest.fixture
def run(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command in this process: its exit status, stdout and stderr."""

    def command(*arguments: object, model: object = checkpoint) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["diarize", *map(str, arguments), "-m", str(model), "--device", "cpu"])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    yield command
    package = logging.getLogger("aronnax")
    package.handlers.clear()
    package.setLevel(logging.NOTSET)


def test_every_input_gives_a_file_and_a_bad_one_does_not_stop_the_others(
    run: Run, model: SortformerModel, folder: Path, tmp_path: Path
) -> None:
    status, printed, said = run(folder, "--out", tmp_path, "-f", "rttm", "-f", "json")
    assert status == 1
    assert printed == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.rttm", "b c.json", "b c.rttm"]
    assert "broken.wav" in said
    assert said.strip().splitlines()[-1] == f"2 of 3 diarizations in {tmp_path}"
    alone = model.diarize(folder / "a.wav")
    assert (tmp_path / "a.rttm").read_text() == alone.to_rttm()
    assert list(read_rttm(tmp_path / "b c.rttm")) == ["b_c"]
    plain = json.loads((tmp_path / "a.json").read_text())
    assert plain["turns"] == [turn.to_dict() for turn in alone.turns]
    assert "probabilities" not in plain


def test_without_out_rttm_is_printed_in_the_order_of_the_inputs(
    run: Run, model: SortformerModel, folder: Path
) -> None:
    paths = [folder / "a.wav", folder / "b c.flac"]
    status, printed, said = run(*paths, "--batch-size", 1)
    assert (status, said) == (0, "")
    assert printed == "".join(found.to_rttm() for found in model.diarize(paths))


def test_json_is_a_line_an_input_and_holds_probabilities_when_asked(run: Run, folder: Path) -> None:
    _, printed, _ = run(folder / "a.wav", folder / "broken.wav", "-f", "json", "--probabilities")
    first, second = map(json.loads, printed.splitlines())
    assert np.asarray(first["probabilities"]).shape == (150, 4)
    assert second == {"source": str(folder / "broken.wav"), "error": True}


def test_options_reach_the_model(run: Run, model: SortformerModel, folder: Path) -> None:
    path = folder / "a.wav"
    given = ["--preset", "callhome", "--onset", "0.3", "--latency", "1.04", "--speakers", "2"]
    _, printed, _ = run(path, *given, "-f", "json")
    plain = json.loads(printed)
    alone = model.diarize(path, preset="callhome-v2", onset=0.3, latency=1.04, num_speakers=2)
    assert plain["turns"] == [turn.to_dict() for turn in alone.turns]
    assert plain["notes"][0] == "streamed with 1.04 s latency, as asked"


def test_whole_number_weights_are_taken_when_asked(run: Run, checkpoint: Path, folder: Path) -> None:
    path = folder / "a.wav"
    _, printed, _ = run(path, "--weights", "int8")
    eight = load(checkpoint, device="cpu", weights="int8")
    assert isinstance(eight, SortformerModel)
    assert printed == eight.diarize(path).to_rttm() != run(path)[1]


def test_a_call_with_a_speaker_on_each_channel_is_kept_apart(run: Run, tmp_path: Path) -> None:
    signal = _session()[: 10 * 16000]
    soundfile.write(tmp_path / "call.wav", np.stack([signal, signal[::-1]], 1), 16000)
    status, printed, _ = run(tmp_path / "call.wav", "--channels", "apart", "--speakers", 1)
    assert status == 0
    assert {line.split()[7].rsplit("_", 1)[0] for line in printed.splitlines()} == {
        "channel_0_speaker",
        "channel_1_speaker",
    }


def test_standard_input_is_one_recording(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO((folder / "a.wav").read_bytes())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=content))
    status, printed, _ = run("-")
    assert status == 0
    assert printed.startswith("SPEAKER stdin 1 ")


def test_silence_gives_an_empty_file_and_a_note(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(32000), 16000)
    status, _, _ = run(tmp_path / "quiet.wav", "--onset", 1, "-o", tmp_path / "o", "-f", "rttm", "-f", "json")
    assert status == 0
    assert (tmp_path / "o" / "quiet.rttm").read_text() == ""
    assert "nobody speaks" in json.loads((tmp_path / "o" / "quiet.json").read_text())["notes"][-1]


def test_a_picture_is_drawn_of_speech_and_of_silence(run: Run, folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(32000), 16000)
    status, _, _ = run(folder / "a.wav", tmp_path / "quiet.wav", "-f", "png", "-o", tmp_path, "--onset", 0.99)
    assert status == 0
    for name in ("a.png", "quiet.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named_before_anything_is_heard(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, said = run(folder / "a.wav", "-f", "png", "-o", tmp_path)
    assert status == 2
    assert "aronnax[train]" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.wav", "-f", "txt"], "--format txt is not known: use rttm, json, png"),
        (["a.wav", "-f", "png"], "give --out FOLDER"),
        (["a.wav", "-f", "rttm", "-f", "json"], "2 formats cannot be printed together"),
        (["a.wav", "--preset", "ami"], "--preset ami is not known: use one of dihard3, callhome"),
        (["a.wav", "--latency", "2"], "--latency 2.0 is not one of 0.32, 1.04, 10.0, 30.4"),
        (["a.wav", "--latency", "soon"], "'offline'"),
        (["a.wav", "--speakers", "5"], "this model tells at most 4 speakers apart"),
        (["a.wav", "--channels", "left"], "'mix' or 'apart'"),
        (["a.wav", "--weights", "int4"], "--weights int4 is not known"),
        (["a.wav", "--rate", "8000"], "--rate is for --live"),
        ([], "nothing to diarize"),
        (["--live", "a.wav"], "not a.wav: leave --live out"),
        (["--live", "-", "--channels", "apart"], "need whole recordings"),
        (["a.wav", "--probabilities"], "give --format json"),
        (["--live", "-", "--format", "json", "--probabilities"], "of whole recordings"),
        (["--live", "--rate", "8000"], "the microphone is asked for the model's"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run: Run, arguments: list[str], said: str) -> None:
    status, printed, error = run(*arguments)
    assert (status, printed) == (2, "")
    assert said in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_a_model_of_another_kind_is_refused(run: Run, folder: Path) -> None:
    status, _, said = run(folder / "a.wav", model="digits")
    assert status == 2
    assert "digits holds a HybridModel, which does not diarize" in said


def test_the_default_is_the_bundled_diarizer_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "bundled", lambda: ["digits"])
    assert default_diarizer() == PUBLISHED_DIARIZER
    monkeypatch.setattr(hub, "bundled", lambda: ["diarizer-small", "digits"])
    assert default_diarizer() == "diarizer-small"


def pcm(signal: np.ndarray) -> bytes:
    return (signal * 32767).astype("<i2").tobytes()


def wav(signal: np.ndarray, rate: int, channels: int = 1) -> bytes:
    """A wav stream whose sizes are not known yet, as ffmpeg writes them into a pipe."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    unknown = struct.pack("<I", 0xFFFFFFFF)
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    head = b"RIFF" + unknown + b"WAVE" + extra + b"fmt " + struct.pack("<I", 16) + form
    return head + b"data" + unknown + pcm(signal)


def times(rttm: str) -> list[tuple[str, ...]]:
    return sorted((fields[3], fields[4], fields[7]) for fields in map(str.split, rttm.splitlines()))


@pytest.fixture
def piped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(content: bytes, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        return run("--live", "-", *arguments)

    return command


def test_what_is_heard_live_is_what_the_stream_of_a_file_gives(piped: Run, model: SortformerModel) -> None:
    signal = _session()[: 20 * 16000]
    whole = model.diarize((np.frombuffer(pcm(signal), "<i2") / np.float32(32768), 16000), latency=1.04)
    status, printed, _ = piped(pcm(signal))
    assert status == 0
    assert printed.startswith("SPEAKER live 1 ")
    assert times(printed) == times(whole.to_rttm())
    assert len(times(printed)) > 5
    assert piped(wav(signal, 16000))[1] == printed
    assert piped(wav(np.repeat(signal, 2), 16000, channels=2))[1] == printed


def test_live_turns_as_json_with_a_preset(piped: Run) -> None:
    _, printed, _ = piped(pcm(_session()[: 20 * 16000]), "-f", "json", "--preset", "callhome")
    turns = [json.loads(line) for line in printed.splitlines()]
    assert turns
    assert min(turn["end"] - turn["start"] for turn in turns) > 0.5
    assert all(0 < turn["confidence"] <= 1 for turn in turns)


def test_a_stream_of_another_rate_is_resampled(piped: Run) -> None:
    time = np.arange(8 * 5) / 8
    signal = np.repeat(0.1 * np.sin(time), 1000).astype(np.float32)
    status, printed, said = piped(wav(signal, 8000), "--onset", 0.0, "--offset", 0.0)
    assert (status, said) == (0, "")
    assert {round(float(line.split()[3]) + float(line.split()[4])) for line in printed.splitlines()} == {5}
    assert piped(pcm(signal), "--rate", 8000, "--onset", 0.0, "--offset", 0.0)[1] == printed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"RIFF....WEBP", "a RIFF file but no wav"),
        (b"RIFF....WAVEfmt ", "it ends before its samples"),
        (b"RIFF....WAVEdata....", "does not say its format"),
        (
            wav(np.zeros(9), 16000).replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 7, 1)),
            "format 7 with 16 bits",
        ),
    ],
)
def test_a_damaged_wav_stream_is_refused(piped: Run, content: bytes, said: str) -> None:
    status, _, error = piped(content)
    assert status == 2
    assert said in error


def test_nothing_on_standard_input_gives_nothing(piped: Run) -> None:
    assert piped(b"") == (0, "", "")
    assert piped(b"\x01")[0] == 0


def test_nan_in_a_live_stream_is_named(piped: Run) -> None:
    signal = np.zeros(16000, "<f4")
    signal[700] = np.nan
    form = struct.pack("<HHIIHH", 3, 1, 16000, 64000, 4, 32)
    head = b"RIFF....WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 64000)
    status, _, said = piped(head + signal.tobytes())
    assert status == 2
    assert "sample 700 of the stream (at 0.044 s) is NaN or infinite" in said


class Microphone:
    """What sounddevice's InputStream does, as far as it is used, until the user presses Ctrl-C."""

    def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
        assert (samplerate, channels, dtype) == (16000, 1, "float32")
        self.left = _session()[: 10 * 16000]

    def __enter__(self) -> Microphone:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, frames: int) -> tuple[np.ndarray, bool]:
        if not len(self.left):
            raise KeyboardInterrupt
        new, self.left = self.left[:frames], self.left[frames:]
        return new[:, None], False


def test_the_microphone_is_heard_until_it_is_interrupted(
    run: Run, model: SortformerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = types.SimpleNamespace(InputStream=Microphone, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    status, printed, said = run("--live", "--latency", 0.32)
    assert status == 130
    assert "listening; Ctrl-C ends" in said
    whole = model.diarize((_session()[: 10 * 16000], 16000), latency=0.32)
    assert times(printed) == times(whole.to_rttm())


def test_without_sounddevice_the_microphone_needs_an_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    status, _, said = run("--live")
    assert status == 2
    assert "sounddevice" in said
    assert "aronnax[live]" in said


def test_a_microphone_that_cannot_be_opened_is_said_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no default input device")

    device = types.SimpleNamespace(InputStream=refuse, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    status, _, said = run("--live")
    assert status == 2
    assert "no default input device" in said


def test_turns_are_printed_while_the_stream_goes_on(
    model: SortformerModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[int] = []

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            said.append(len(capsys.readouterr().out.splitlines()))
            return super().read1(-1 if size is None else size)

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Pipe(pcm(_session()[: 20 * 16000]))))
    assert live.listen(model, ["-"], live.Live(None, "rttm", None), {"preset": None, "replaced": {}}) == 0
    assert sum(count > 0 for count in said) > 3
