"""Bad input: one clear sentence that names what was wrong, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.asr.hybrid.model import HybridModel
from aronnax.core.errors import AronnaxError, AudioError, ManifestError, OptionError
from tests.asr.recognizer.conftest import RATE, noises


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def truncated(folder: Path) -> Path:
    path = write(folder / "cut.wav", noises([2.0])[0][0])
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def with_nan(folder: Path) -> Path:
    samples = noises([1.0])[0][0]
    samples[8000] = np.nan
    return write(folder / "nan.wav", samples, subtype="FLOAT")


def text_file(folder: Path) -> Path:
    path = folder / "notes.wav"
    path.write_text("this is not a recording\n" * 20)
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


BAD_FILES = {
    "missing": (lambda folder: folder / "gone.wav", r"gone\.wav: no such file"),
    "empty": (empty_file, r"empty\.wav: is an empty file"),
    "truncated": (truncated, r"cut\.wav: cut short"),
    "not audio": (text_file, r"notes\.wav: "),
    "zero length": (lambda folder: write(folder / "zero.wav", np.zeros(0)), r"zero\.wav: holds no samples"),
    "nan": (with_nan, r"nan\.wav: sample 8000 .* is NaN"),
    "no recordings": (lambda folder: folder, "the folder holds no recording"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(model: HybridModel, tmp_path: Path, kind: str) -> None:
    make, message = BAD_FILES[kind]
    with pytest.raises(AudioError, match=message):
        model.transcribe(make(tmp_path))


def test_one_bad_file_does_not_stop_the_others(model: HybridModel, tmp_path: Path, talk: Path) -> None:
    inputs = [talk, tmp_path / "gone.wav", talk, text_file(tmp_path), 12, talk]
    results = {result.index: result for result in model.transcribe_iter(inputs, batch_size=2)}
    assert sorted(results) == list(range(6))
    assert [i for i in range(6) if results[i].error] == [1, 3, 4]
    good = [results[i].transcript for i in (0, 2, 5)]
    assert all(transcript is not None and transcript.text == good[0].text for transcript in good)
    assert results[1].source == str(tmp_path / "gone.wav")


def test_a_long_file_that_is_damaged_in_the_middle_fails_alone(model: HybridModel, tmp_path: Path) -> None:
    samples = noises([5.0])[0][0]
    samples[60_000] = np.inf
    bad = write(tmp_path / "inf.wav", samples, subtype="FLOAT")
    good = write(tmp_path / "good.wav", noises([5.0])[0][0])
    results = {r.index: r for r in model.transcribe_iter([bad, good], chunk=1.0)}
    assert "sample 60000" in str(results[0].error)
    assert results[1].transcript is not None


def test_one_sample_is_an_empty_transcript(model: HybridModel, tmp_path: Path) -> None:
    path = write(tmp_path / "one.wav", np.array([0.5]))
    for options in ({}, {"chunk": 1.0}, {"chunk": "local"}, {"vad": "energy"}):
        transcript = model.transcribe(path, **options)
        assert (transcript.text, transcript.words, transcript.segments) == ("", (), ())
        assert transcript.duration == 1 / RATE
        assert "shorter than one frame" in transcript.notes[0]


def test_six_channels_are_mixed(model: HybridModel, tmp_path: Path) -> None:
    samples = noises([2.0])[0][0]
    six = write(tmp_path / "six.wav", np.stack([samples] * 6, axis=1), subtype="FLOAT")
    mono = write(tmp_path / "mono.wav", samples, subtype="FLOAT")
    assert model.transcribe(six).text == model.transcribe(mono).text


@pytest.mark.parametrize("rate", [3000, 8000, 44_100, 192_000])
def test_any_rate_is_resampled(model: HybridModel, tmp_path: Path, rate: int) -> None:
    transcript = model.transcribe(write(tmp_path / "any.wav", noises([1.0])[0][0][: rate // 2], rate))
    assert transcript.duration == pytest.approx(min(0.5, 16000 / rate), abs=1e-4)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.zeros(16000, np.float32), {}, AudioError, "without its sample rate"),
        (torch.zeros(16000), {}, AudioError, "without its sample rate"),
        (np.zeros(16000, np.float32), {"sample_rate": 0}, AudioError, "rate"),
        ((np.zeros((2, 3, 4), np.float32), 16000), {}, AudioError, r"shape \(2, 3, 4\)"),
        ((np.full(16000, np.nan, np.float32), 16000), {}, AudioError, "NaN"),
        ((np.zeros(0, np.float32), 16000), {}, AudioError, "no samples"),
        ((np.array(["a", "b"]), 16000), {}, AudioError, "not audio"),
        (b"", {}, AudioError, "empty"),
        (b"not a recording", {}, AudioError, "audio bytes"),
        ({"text": "hello"}, {}, AudioError, "'audio_filepath'"),
        (
            {"array": np.zeros(9), "sampling_rate": 16000},
            {},
            AudioError,
            r"pass \(x\['array'\], x\['sampling_rate'\]\)",
        ),
        (12, {}, OptionError, "cannot transcribe a int"),
        (None, {}, OptionError, "cannot transcribe a NoneType"),
    ],
)
def test_a_bad_array_or_object_is_explained(
    model: HybridModel, x: Any, options: dict, error: type[AronnaxError], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.transcribe(x, **options)


BAD_LINES = {
    "not json": ("{audio", "line 2: not JSON"),
    "no path": (json.dumps({"text": "a"}), "line 2: the field audio_filepath is missing"),
    "wrong text": (json.dumps({"audio_filepath": "talk.wav", "text": 3}), "line 2: text is 3"),
    "negative": (json.dumps({"audio_filepath": "talk.wav", "duration": -1}), "line 2: duration is negative"),
    "beyond": (json.dumps({"audio_filepath": "talk.wav", "offset": 99}), "offset 99.* outside the recording"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_manifest_line_is_named_and_the_others_go_on(model: HybridModel, talk: Path, kind: str) -> None:
    line, message = BAD_LINES[kind]
    good = json.dumps({"audio_filepath": talk.name})
    manifest = talk.parent / "lines.json"
    manifest.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(AronnaxError, match=message):
        model.transcribe(manifest)
    results = {result.index: result for result in model.transcribe_iter(manifest)}
    assert [results[i].error is None for i in range(3)] == [True, False, True]


def test_a_missing_or_empty_manifest_is_an_error(model: HybridModel, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be opened"):
        model.transcribe(tmp_path / "gone.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ManifestError, match="empty"):
        model.transcribe(tmp_path / "empty.jsonl")
