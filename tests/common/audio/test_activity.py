from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.common.audio.activity import ActivityConfig, speech_regions
from aronnax.collections.common.audio.reading import open_audio
from aronnax.core.errors import AudioError, MissingExtraError, OptionError

RATE = 16000


def noise(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (level * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def babble(seconds: float, level: float = 0.1) -> np.ndarray:
    """Return noise whose loudness rises and falls four times a second, as syllables do."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (noise(seconds, level, seed=1) * np.abs(np.sin(2 * np.pi * 2 * time))).astype(np.float32)


def talk(*pieces: np.ndarray, floor: float = 0.0003) -> np.ndarray:
    joined = np.concatenate(pieces)
    return joined + noise(len(joined) / RATE, floor, seed=2)


def pause(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.mark.parametrize("floor", [0.0, 0.0003, 0.01])
def test_regions_hold_the_speech_with_its_padding(floor: float) -> None:
    audio = talk(pause(2), babble(1.5), pause(1), babble(2), pause(2), floor=floor)
    regions = speech_regions(audio, RATE)
    expected = [(1.8, 3.7), (4.3, 6.7)]
    np.testing.assert_allclose(np.array(regions) / RATE, expected, atol=0.06)


@pytest.mark.parametrize("quiet", [pause(5), noise(5, 0.001), noise(5, 0.1), pause(5) + 0.3])
def test_there_is_no_speech_in_silence_or_steady_noise(quiet: np.ndarray) -> None:
    assert speech_regions(quiet, RATE) == []


def test_short_pauses_are_bridged_and_clicks_dropped() -> None:
    audio = talk(pause(1), babble(1), pause(0.2), babble(1), pause(2), 0.5 + pause(0.02), pause(2))
    assert len(speech_regions(audio, RATE)) == 1


def test_speech_without_any_pause_is_kept_whole() -> None:
    ((start, stop),) = speech_regions(babble(3), RATE)
    assert start == 0
    assert stop == 3 * RATE


@pytest.mark.parametrize("level", [0.3, 0.003])
def test_a_clip_cut_close_around_a_word_is_kept(level: float) -> None:
    ((start, stop),) = speech_regions(babble(0.4, level), RATE)
    assert stop - start > 0.35 * RATE


def test_the_floor_follows_a_noise_that_sets_in() -> None:
    audio = np.concatenate([noise(40, 0.0003), noise(60, 0.01)])
    audio[80 * RATE : 82 * RATE] += babble(2, 0.3)
    regions = speech_regions(audio, RATE)
    late = [(start / RATE, stop / RATE) for start, stop in regions if start > 55 * RATE]
    np.testing.assert_allclose(late, [(79.8, 82.2)], atol=0.06)


def test_regions_are_apart_in_order_and_inside() -> None:
    generator = np.random.default_rng(5)
    for _ in range(20):
        pieces = [
            p for _ in range(6) for p in (pause(generator.uniform(0, 1)), babble(generator.uniform(0, 1)))
        ]
        audio = talk(*pieces)
        edges = np.array(speech_regions(audio, RATE)).ravel()
        assert (np.diff(edges) > 0).all()
        assert len(edges) == 0 or (edges[0] >= 0 and edges[-1] <= len(audio))


@pytest.mark.parametrize("length", [1, 10, 159, 160, 161])
def test_the_shortest_recordings_have_an_answer(length: int) -> None:
    assert speech_regions(np.full(length, 0.1, np.float32), RATE) == []


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_stream_gives_what_the_array_gives(tmp_path: Path, rate: int) -> None:
    audio = talk(pause(40), babble(40), pause(50), babble(3), pause(1))
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    with open_audio(tmp_path / "a.wav", rate) as stream:
        assert speech_regions(stream) == speech_regions(audio, rate) != []
        excerpt = types.SimpleNamespace(sample_rate=rate, samples=stream.samples, read=stream.read)
        assert speech_regions(excerpt) == speech_regions(stream)


def test_an_array_needs_its_rate() -> None:
    with pytest.raises(AudioError, match="rate"):
        speech_regions(pause(1))


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(OptionError, match="webrtc"):
        speech_regions(pause(1), RATE, detector="webrtc")


class LoudnessModel:
    """Stands in for Silero: frames of 512 samples at 16 kHz are speech when loud."""

    def reset_states(self) -> None:
        pass

    def __call__(self, frame: torch.Tensor, rate: int) -> torch.Tensor:
        assert (frame.shape, rate) == ((512,), 16000)
        return (frame.abs().mean() > 0.01).float()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_sileros_frames_become_regions_of_the_recording(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import soxr

    module = types.SimpleNamespace(load_silero_vad=LoudnessModel)
    monkeypatch.setitem(sys.modules, "silero_vad", module)
    audio = soxr.resample(talk(pause(2), babble(1.5), pause(61)), RATE, rate)
    regions = speech_regions(audio, rate, detector="silero")
    np.testing.assert_allclose(np.array(regions) / rate, [(1.8, 3.7)], atol=0.1)
    ((_, stop),) = speech_regions(audio[: int(3.01 * rate)], rate, detector="silero")
    assert stop == int(3.01 * rate)


def test_without_silero_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingExtraError, match=r"aronnax\[vad\]"):
        speech_regions(pause(1), RATE, detector="silero")


def test_the_real_silero_hears_no_speech_in_noise() -> None:
    pytest.importorskip("silero_vad", reason="silero-vad is not installed")
    assert speech_regions(noise(3, 0.01), RATE, detector="silero") == []


def test_settings_widen_the_regions() -> None:
    audio = talk(pause(2), babble(1), pause(2))
    narrow = speech_regions(audio, RATE, config=ActivityConfig(padding=0.0))
    wide = speech_regions(audio, RATE, config=ActivityConfig(padding=0.5))
    assert wide == [(narrow[0][0] - RATE // 2, narrow[0][1] + RATE // 2)]
