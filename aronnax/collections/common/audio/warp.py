"""Voice augmentation: other vocal tracts, pitches, tempos, channels and rooms made from given speech.

The source-filter idea: a short-time spectrum is a smooth envelope (the vocal tract) times an excitation
(the voice). Stretching the envelope along frequency is another speaker's tract; resampling moves pitch and
tract together; a phase vocoder changes the tempo alone. The three are independent here.

Legend: `B` batch, `S` samples, `T` frames, `F` frequency bins or mel bands, `R` samples of a room response.
Random functions draw from an explicit `torch.Generator`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_ENVELOPE_SECONDS = 0.0022  # quefrencies below this are the vocal tract, above it the pitch
_FRAME_SECONDS = 0.032
_LARGEST_CHANGE = math.log(10 ** (30 / 20))  # of one bin's magnitude


def warp_voices(
    clips: Sequence[np.ndarray],
    sample_rate: int,
    *,
    pitch: Tensor,
    formant: Tensor,
    tempo: Tensor,
    batch_size: int = 64,
) -> list[np.ndarray]:
    """Each clip [S] spoken by another voice, as float32 arrays of their new lengths.

    `pitch`, `formant` and `tempo` [len(clips)] multiply the fundamental, the resonances and the speed;
    1.0 changes nothing. A tract 20 % shorter is `formant=1.25`.
    """
    import soxr

    # soxr takes a pair of rates: reading the clip as `pitch` times faster scales pitch and tract alike.
    resampled = [soxr.resample(clip, float(p), 1.0) for clip, p in zip(clips, pitch)]
    order = sorted(range(len(clips)), key=lambda i: len(resampled[i]))
    warped: list[np.ndarray] = [np.zeros(0, np.float32)] * len(clips)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        signal = torch.zeros(len(rows), max(len(resampled[i]) for i in rows))
        for row, i in enumerate(rows):
            signal[row, : len(resampled[i])] = torch.from_numpy(resampled[i])
        stretch = tempo[rows] / pitch[rows]
        out = _respeak(signal, sample_rate, formant[rows] / pitch[rows], stretch)
        for row, i in enumerate(rows):
            samples = round(len(resampled[i]) / float(stretch[row]))
            warped[i] = out[row, :samples].numpy().copy()
    return warped


def _respeak(signal: Tensor, sample_rate: int, formant: Tensor, tempo: Tensor) -> Tensor:
    """Signal [B, S] with its envelope stretched by `formant` [B] and its tempo changed by `tempo` [B]."""
    n_fft = 2 ** round(math.log2(sample_rate * _FRAME_SECONDS))
    hop, window = n_fft // 4, torch.hann_window(n_fft)
    # Silence behind every row, so that its end is the same alone and in a batch.
    signal = F.pad(signal, (0, n_fft))
    spectrum = torch.stft(signal, n_fft, hop, window=window, return_complex=True, pad_mode="constant")
    magnitude, phase = spectrum.abs().clamp_min(1e-7), spectrum.angle()
    magnitude = magnitude * _envelope_change(magnitude, sample_rate, formant)
    magnitude, phase = _vocoder(magnitude, phase, hop, n_fft, tempo)
    frames = magnitude.shape[-1]
    return torch.istft(torch.polar(magnitude, phase), n_fft, hop, window=window, length=(frames - 1) * hop)


def _envelope_change(magnitude: Tensor, sample_rate: int, formant: Tensor) -> Tensor:
    """Factors [B, F, T] that turn the envelope of each frame into the stretched one."""
    cepstrum = torch.fft.irfft(magnitude.log(), dim=1)
    keep = max(2, int(_ENVELOPE_SECONDS * sample_rate))
    lifter = torch.zeros(cepstrum.shape[1])
    lifter[:keep] = 1.0
    lifter[-keep + 1 :] = 1.0
    envelope = torch.fft.rfft(cepstrum * lifter[:, None], dim=1).real
    stretched = _stretch_axis(envelope, torch.arange(envelope.shape[1]) / formant[:, None])
    return (stretched - envelope).clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE).exp()


def _stretch_axis(values: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of `values` [B, F, T] along F at the fractional `position` [B, F]."""
    position = position.clamp(0, values.shape[1] - 1)
    below = position.floor().long().clamp_max(values.shape[1] - 2)
    share = (position - below)[:, :, None]
    index = below[:, :, None].expand(-1, -1, values.shape[2])
    return values.gather(1, index) * (1 - share) + values.gather(1, index + 1) * share


def _vocoder(magnitude: Tensor, phase: Tensor, hop: int, n_fft: int, tempo: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes and phases [B, F, T'] played at `tempo` [B]; T' is that of the slowest row."""
    frames = magnitude.shape[-1]
    position = torch.arange(math.ceil(frames / float(tempo.min())) + 1) * tempo[:, None]
    position = position.clamp_max(frames - 1)
    magnitude, phase = F.pad(magnitude, (0, 1)), F.pad(phase, (0, 1))
    below = position.floor().long()
    index = below[:, None, :].expand(-1, magnitude.shape[1], -1)
    share = (position - below)[:, None, :]
    played = magnitude.gather(2, index) * (1 - share) + magnitude.gather(2, index + 1) * share
    first = phase.gather(2, index)
    advance = (2 * math.pi * hop / n_fft) * torch.arange(magnitude.shape[1])[None, :, None]
    step = phase.gather(2, index + 1) - first - advance
    step = step - 2 * math.pi * torch.round(step / (2 * math.pi)) + advance
    total = first[:, :, :1] + torch.cumsum(step, dim=2) - step
    return played, total


def warp_bands(features: Tensor, factor: Tensor, sample_rate: int) -> Tensor:
    """Log-mel features [B, T, F] with their frequency axis stretched by `factor` [B] (1.0: unchanged).

    Vocal-tract-length perturbation (Jaitly and Hinton, 2013) on features that are already computed: cheap
    enough for every batch.
    """
    bands = features.shape[2]
    top = _mel(torch.tensor(sample_rate / 2))
    centres = _hertz(torch.arange(1, bands + 1) / (bands + 1) * top)
    position = _mel(centres / factor[:, None]) / top * (bands + 1) - 1
    return _stretch_axis(features.transpose(1, 2), position).transpose(1, 2)


def _mel(hertz: Tensor) -> Tensor:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    return torch.where(
        hertz < 1000, hertz * 3 / 200, 15 + 27 * (hertz.clamp_min(1) / 1000).log() / math.log(6.4)
    )


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * ((mel - 15) * math.log(6.4) / 27).exp())


def equalise(signal: Tensor, decibels: Tensor) -> Tensor:
    """Signal [B, S] through filters given by `decibels` [B, K] at K frequencies, even from 0 to Nyquist."""
    bins = signal.shape[1] // 2 + 1
    curve = F.interpolate(decibels[:, None, :], size=bins, mode="linear", align_corners=True)[:, 0]
    return torch.fft.irfft(torch.fft.rfft(signal) * 10 ** (curve / 20), n=signal.shape[1])


def pass_band(signal: Tensor, sample_rate: int, low: Tensor, high: Tensor) -> Tensor:
    """Signal [B, S] kept between `low` and `high` [B] Hz with slopes of a fourth-order Butterworth filter.

    A telephone line is 300 to 3400 Hz.
    """
    hertz = torch.linspace(0, sample_rate / 2, signal.shape[1] // 2 + 1)
    above = 1 / torch.sqrt(1 + (low[:, None] / hertz.clamp_min(1e-3)) ** 8)
    below = 1 / torch.sqrt(1 + (hertz / high[:, None]) ** 8)
    return torch.fft.irfft(torch.fft.rfft(signal) * above * below, n=signal.shape[1])


def mu_law(signal: Tensor, levels: int = 256) -> Tensor:
    """Signal [B, S] in [-1, 1] as a G.711-like codec leaves it: logarithmic steps, `levels` of them."""
    mu = levels - 1
    compressed = signal.sign() * torch.log1p(mu * signal.abs().clamp_max(1)) / math.log1p(mu)
    rounded = torch.round(compressed * (levels / 2)) / (levels / 2)
    return rounded.sign() * torch.expm1(rounded.abs() * math.log1p(mu)) / mu


def simulated_rooms(count: int, sample_rate: int, seconds: float, generator: torch.Generator) -> Tensor:
    """Room responses [count, R]: a direct sound, then noise that decays by 60 dB in 0.1 to 0.9 s.

    Each begins at its direct sound and has unit energy.
    """
    samples = int(seconds * sample_rate)
    time = torch.arange(samples) / sample_rate
    decay = 0.1 + 0.8 * torch.rand(count, 1, generator=generator) ** 2
    tail = torch.randn(count, samples, generator=generator) * 10 ** (-3 * time / decay)
    start = 0.001 + 0.01 * torch.rand(count, 1, generator=generator)
    tail = tail * (time >= start)
    direct_to_tail = 10 ** ((-3 + 18 * torch.rand(count, 1, generator=generator)) / 20)
    tail = tail / tail.norm(dim=1, keepdim=True).clamp_min(1e-6)
    tail[:, 0] = direct_to_tail[:, 0]
    return tail / tail.norm(dim=1, keepdim=True)


def trim_room(response: np.ndarray, sample_rate: int, seconds: float) -> Tensor:
    """A measured response as [R]: from its strongest sample on, `seconds` long, with unit energy."""
    samples = int(seconds * sample_rate)
    start = int(np.argmax(np.abs(response)))
    room = torch.zeros(samples)
    kept = torch.from_numpy(np.ascontiguousarray(response[start : start + samples], dtype=np.float32))
    room[: len(kept)] = kept
    return room / room.norm().clamp_min(1e-6)


def reverberate(signal: Tensor, rooms: Tensor) -> Tensor:
    """Signal [B, S] heard in `rooms` [B, R], cut to its own length."""
    size = signal.shape[1] + rooms.shape[1]
    return torch.fft.irfft(torch.fft.rfft(signal, size) * torch.fft.rfft(rooms, size), size)[
        :, : signal.shape[1]
    ]


def add_noise(signal: Tensor, lengths: Tensor, noise: Tensor, decibels: Tensor) -> Tensor:
    """Signal [B, S] plus `noise` [B, S] at signal-to-noise ratios `decibels` [B], over its valid samples."""
    valid = torch.arange(signal.shape[1]) < lengths[:, None]
    noise = noise * valid
    power = (signal * valid).square().sum(1) / noise.square().sum(1).clamp_min(1e-9)
    return signal + noise * (power.sqrt() * 10 ** (-decibels / 20))[:, None]


def overdrive(signal: Tensor, level: Tensor) -> Tensor:
    """Signal [B, S] clipped at the share `level` [B] of its own peak."""
    limit = signal.abs().amax(1, keepdim=True) * level[:, None]
    return signal.clamp(-limit, limit)


def expand(signal: Tensor, sample_rate: int, strength: Tensor) -> Tensor:
    """Signal [B, S] with wider dynamics: what lies 20 dB below the loudest falls by 20 * `strength` [B] dB more.

    A negative strength compresses. Speakers and recorders differ in how far their fricatives lie below their vowels.
    """
    frame = 2 * (sample_rate // 100) + 1
    level = F.avg_pool1d(
        signal.square()[:, None], frame, stride=1, padding=frame // 2, count_include_pad=False
    )[:, 0]
    share = (level / level.amax(1, keepdim=True).clamp_min(1e-9)).clamp_min(1e-5)
    return signal * share ** (strength[:, None] / 2)
