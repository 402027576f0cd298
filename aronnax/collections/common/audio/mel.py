"""The mel filterbank on Slaney's scale, and the analysis windows, computed without any audio library.

Slaney's scale is linear below 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998); triangles are
normalised to unit area. `F` mel bands, `K = n_fft / 2 + 1` frequency bins.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_HZ_PER_LINEAR_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_LINEAR_MEL
_LOG_STEP = math.log(6.4) / 27.0

_WINDOWS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
WINDOW_NAMES: tuple[str, ...] = (*_WINDOWS, "ones")


def hz_to_mel(hz: float) -> float:
    """Return the place on Slaney's mel scale of a frequency in Hz.

    >>> round(hz_to_mel(1000.0), 6)
    15.0
    """
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_LINEAR_MEL
    return _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Return the frequencies in Hz [F] of places [F] on Slaney's mel scale."""
    linear = mel * _HZ_PER_LINEAR_MEL
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, linear, logarithmic)


def mel_centres(n_mels: int, low_freq: float, high_freq: float) -> np.ndarray:
    """Return the corner frequencies in Hz [F + 2] of F triangles: band i starts at i and peaks at i + 1."""
    return mel_to_hz(np.linspace(hz_to_mel(low_freq), hz_to_mel(high_freq), n_mels + 2))


def mel_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, low_freq: float = 0.0, high_freq: float | None = None
) -> np.ndarray:
    """Return the float32 matrix [F, K] from a power spectrum to F mel bands; `high_freq` None is Nyquist."""
    corners = mel_centres(n_mels, low_freq, sample_rate / 2 if high_freq is None else high_freq)
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    ramps = corners[:, None] - bins[None, :]
    widths = np.diff(corners)[:, None]
    rising, falling = -ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]
    # Rounded to float32 before and after the area norm, as the published checkpoints' stored banks were.
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    area_norm = 2.0 / (corners[2:] - corners[:-2])
    return (triangles * area_norm[:, None]).astype(np.float32)


def analysis_window(name: str, length: int) -> Tensor:
    """Return the symmetric float32 analysis window [length] of one of `WINDOW_NAMES`, always on the CPU."""
    if name == "ones":
        return torch.ones(length, device="cpu")
    return _WINDOWS[name](length, periodic=False, dtype=torch.float32, device="cpu")
