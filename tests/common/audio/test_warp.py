"""Voice augmentation does what its parameters say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aronnax.collections.common.audio import warp
from aronnax.collections.common.audio.features import LogMel, LogMelConfig

RATE = 8000


def _vowel(pitch: float, formant: float, seconds: float = 1.0) -> np.ndarray:
    """Harmonics of `pitch` under one resonance at `formant` Hz."""
    time = np.arange(int(RATE * seconds)) / RATE
    harmonics = np.arange(1, int(3900 / pitch)) * pitch
    levels = 1 / (1 + ((harmonics - formant) / 250) ** 2)
    return (0.05 * (levels[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0)).astype(
        np.float32
    )


def _pitch_of(audio: np.ndarray) -> float:
    middle = audio[len(audio) // 4 : len(audio) // 4 + 2000]
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return RATE / (25 + int(np.argmax(correlation[25:120])))


def _formant_of(audio: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(audio[: len(audio) // 1])) ** 2
    hertz = np.linspace(0, RATE / 2, len(power))
    near = power * (hertz > 300)
    return float((near * hertz).sum() / near.sum())


def _warp(audio: np.ndarray, pitch: float = 1.0, formant: float = 1.0, tempo: float = 1.0) -> np.ndarray:
    factors = {"pitch": pitch, "formant": formant, "tempo": tempo}
    return warp.warp_voices([audio], RATE, **{k: torch.tensor([v]) for k, v in factors.items()})[0]


def test_factors_of_one_change_nothing() -> None:
    audio = _vowel(120, 1200, 0.5)
    same = _warp(audio)
    assert len(same) == len(audio)
    assert np.abs(same[200:-200] - audio[200:-200]).max() < 1e-3


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_pitch_tract_and_tempo_are_independent(factor: float) -> None:
    audio = _vowel(120, 1200)
    pitch, formant = _pitch_of(audio), _formant_of(audio)
    shifted = _warp(audio, pitch=factor)
    assert _pitch_of(shifted) == pytest.approx(pitch * factor, rel=0.03)
    assert _formant_of(shifted) == pytest.approx(formant, rel=0.1)
    assert len(shifted) == pytest.approx(len(audio), rel=0.01)
    resized = _warp(audio, formant=factor)
    assert _pitch_of(resized) == pytest.approx(pitch, rel=0.03)
    assert _formant_of(resized) == pytest.approx(formant * factor, rel=0.1)
    faster = _warp(audio, tempo=factor)
    assert len(faster) == pytest.approx(len(audio) / factor, rel=0.01)
    assert _pitch_of(faster) == pytest.approx(pitch, rel=0.03)


def test_a_clip_does_not_depend_on_its_batch() -> None:
    clips = [_vowel(100, 900, 0.3), _vowel(140, 1500, 0.7)]
    factors = {
        "pitch": torch.tensor([0.9, 1.1]),
        "formant": torch.tensor([1.1, 0.9]),
        "tempo": torch.tensor([1.2, 0.8]),
    }
    together = warp.warp_voices(clips, RATE, **factors)
    for row, clip in enumerate(clips):
        alone = warp.warp_voices(
            [clip], RATE, **{name: values[row : row + 1] for name, values in factors.items()}
        )[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-4)


def test_warped_bands_move_a_resonance_by_the_factor() -> None:
    mel = LogMel(LogMelConfig(sample_rate=RATE, n_mels=40, n_fft=256, normalize="none")).eval()
    lengths = torch.tensor([RATE])

    def features(formant: float) -> torch.Tensor:
        return mel(torch.from_numpy(_vowel(90, formant))[None], lengths)[0]

    original, wanted = features(1500), features(1500 * 1.2)
    moved = warp.warp_bands(original, torch.tensor([1.2]), RATE)
    peak = [int(x.mean((0, 1)).argmax()) for x in (original, wanted, moved)]
    assert peak[0] < peak[1]
    assert abs(peak[2] - peak[1]) <= 1
    torch.testing.assert_close(warp.warp_bands(original, torch.ones(1), RATE), original, atol=1e-3, rtol=0)


def test_a_telephone_line_keeps_the_middle_and_drops_the_ends() -> None:
    time = torch.arange(RATE) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (60.0, 1000.0, 3950.0)])
    heard = warp.pass_band(tones, RATE, torch.full((3,), 300.0), torch.full((3,), 3000.0))
    low, middle, high = (heard.norm(dim=1) / tones.norm(dim=1)).tolist()
    assert middle > 0.99
    assert low < 0.01
    assert high < 0.4


def test_equalising_raises_what_it_is_told_to() -> None:
    time = torch.arange(RATE) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (10.0, 3990.0)])
    heard = warp.equalise(tones, torch.tensor([[0.0, 20.0]] * 2))
    assert (heard.norm(dim=1) / tones.norm(dim=1)).tolist() == pytest.approx([1.0, 10.0], rel=0.1)


def test_noise_is_added_at_the_ratio_asked_for_and_only_to_valid_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, 4000, generator=generator) * 0.1
    lengths = torch.tensor([4000, 2000])
    signal[1, 2000:] = 0
    noisy = warp.add_noise(
        signal, lengths, torch.randn(2, 4000, generator=generator), torch.tensor([10.0, 0.0])
    )
    ratio = signal.square().sum(1) / (noisy - signal).square().sum(1)
    assert (10 * ratio.log10()).tolist() == pytest.approx([10.0, 0.0], abs=0.1)
    assert not noisy[1, 2000:].any()


def test_rooms_start_at_the_direct_sound_decay_and_keep_energy() -> None:
    rooms = warp.simulated_rooms(20, RATE, 0.5, torch.Generator().manual_seed(0))
    assert rooms.shape == (20, 4000)
    assert (rooms.abs().argmax(1) == 0).float().mean() > 0.7
    assert rooms[:, 10:1000].square().sum() > 4 * rooms[:, 2000:3000].square().sum()
    torch.testing.assert_close(rooms.norm(dim=1), torch.ones(20))
    click = torch.zeros(20, 6000)
    click[:, 100] = 1.0
    torch.testing.assert_close(warp.reverberate(click, rooms)[:, 100:4100], rooms, atol=1e-5, rtol=0)


def test_a_measured_room_is_cut_at_its_direct_sound() -> None:
    response = np.zeros(1000, np.float32)
    response[300], response[400] = 2.0, 1.0
    room = warp.trim_room(response, 1000, 0.2)
    assert room.shape == (200,)
    assert room[0] == pytest.approx(2 / 5**0.5)
    assert room[100] == pytest.approx(1 / 5**0.5)


def test_the_codec_has_few_levels_and_small_errors() -> None:
    signal = torch.linspace(-1, 1, 5001)[None]
    coded = warp.mu_law(signal)
    assert len(coded.unique()) <= 257
    assert (coded - signal).abs().max() < 0.03
    assert (coded - signal)[0, 2450:2550].abs().max() < 1e-3


def test_overdrive_flattens_peaks_only() -> None:
    signal = torch.tensor([[0.1, -0.4, 0.8]])
    torch.testing.assert_close(warp.overdrive(signal, torch.tensor([0.5])), torch.tensor([[0.1, -0.4, 0.4]]))


def test_expanding_lowers_the_quiet_passages_and_compressing_raises_them() -> None:
    tone = torch.sin(torch.arange(8000) * 0.5)
    signal = torch.cat([tone, 0.1 * tone])[None].repeat(2, 1)
    heard = warp.expand(signal, RATE, torch.tensor([0.5, -0.5]))
    ratio = heard[:, 9000:].norm(dim=1) / heard[:, 1000:7000].norm(dim=1) * (6 / 7) ** 0.5
    assert (20 * ratio.log10()).tolist() == pytest.approx([-30.0, -10.0], abs=1.0)
