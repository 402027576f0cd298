"""Sounds in which nobody speaks: those the noise stage trains on, and others it is tested on.

Each kind is a function of a numpy generator and a number of samples; it gives samples [S] at 8 kHz, peak below 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RATE = 8000
Noise = Callable[[np.random.Generator, int], np.ndarray]


def zeros(chance: np.random.Generator, size: int) -> np.ndarray:
    """Digital silence."""
    return np.zeros(size)


def faint(chance: np.random.Generator, size: int) -> np.ndarray:
    """A quiet room: noise of the lowest bits."""
    return chance.standard_normal(size) * 10 ** chance.uniform(-5, -3)


def coloured(chance: np.random.Generator, size: int) -> np.ndarray:
    """Steady noise whose spectrum falls as frequency to the power 0 to 2: white, pink, brown."""
    return _sloped(chance, size, chance.choice([0.0, 0.5, 1.0, chance.uniform(0, 1.2)]))


def gusts(chance: np.random.Generator, size: int) -> np.ndarray:
    """Noise that swells and fades a few times a second."""
    return _sloped(chance, size, chance.uniform(0, 1)) * _swell(chance, size, chance.uniform(0.3, 5))


def hum(chance: np.random.Generator, size: int) -> np.ndarray:
    """Mains hum with its harmonics over a little noise."""
    base, time = chance.choice([50.0, 60.0]), np.arange(size) / RATE
    waves = sum(
        chance.uniform(0, 1) / k * np.sin(2 * np.pi * k * base * time + chance.uniform(0, 6))
        for k in range(1, 12)
    )
    return waves + 10 ** chance.uniform(-3, -1) * chance.standard_normal(size)


def clicks(chance: np.random.Generator, size: int) -> np.ndarray:
    """Taps and clicks: short decaying bursts at random moments."""
    signal = 10 ** chance.uniform(-4, -2) * chance.standard_normal(size)
    for _ in range(1 + chance.poisson(size / RATE * chance.uniform(0.5, 6))):
        length = int(RATE * chance.uniform(0.002, 0.1))
        burst = chance.standard_normal(length) * np.exp(-np.arange(length) / length * chance.uniform(3, 9))
        _place(signal, burst * chance.uniform(0.1, 1), chance.integers(size))
    return signal


def melody(chance: np.random.Generator, size: int) -> np.ndarray:
    """Notes with harmonics, one after the other or in chords, over a little noise."""
    signal = 10 ** chance.uniform(-5, -2) * chance.standard_normal(size)
    at, timbre = 0, chance.uniform(0.5, 3)
    while at < size:
        length = int(RATE * chance.uniform(0.1, 1.2))
        for _ in range(chance.integers(1, 4)):
            _place(signal, _note(chance, length, 110 * 2 ** (chance.integers(0, 36) / 12), timbre), at)
        at += int(length * chance.uniform(0.4, 1.3))
    return signal


def sweep(chance: np.random.Generator, size: int) -> np.ndarray:
    """A tone that glides, steadily or to and fro."""
    time = np.arange(size) / RATE
    low, span = chance.uniform(100, 1000), chance.uniform(50, 2500)
    way = 0.5 + 0.5 * np.sin(2 * np.pi * chance.uniform(0.1, 4) * time + chance.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(low + span * way) / RATE
    return np.sin(phase) + 10 ** chance.uniform(-4, -1) * chance.standard_normal(size)


def beeps(chance: np.random.Generator, size: int) -> np.ndarray:
    """Dial and busy tones: two frequencies, on and off."""
    time = np.arange(size) / RATE
    tone = sum(np.sin(2 * np.pi * chance.uniform(300, 1700) * time) for _ in range(2))
    return tone * (np.sin(2 * np.pi * chance.uniform(0.5, 5) * time) > chance.uniform(-0.8, 0.8))


def blue(chance: np.random.Generator, size: int) -> np.ndarray:
    """Noise that rises with frequency."""
    return _sloped(chance, size, -1.0)


def squares(chance: np.random.Generator, size: int) -> np.ndarray:
    """A melody of square waves, as of an old game."""
    length, notes = RATE // 6, []
    for _ in range(1 + size // length):
        notes.append(np.full(length, 220 * 2 ** (chance.integers(0, 24) / 12)))
    phase = np.cumsum(np.concatenate(notes)[:size]) / RATE
    return np.sign(np.sin(2 * np.pi * phase))


def rain(chance: np.random.Generator, size: int) -> np.ndarray:
    """Thousands of drops, each a short ringing of its own pitch."""
    signal = np.zeros(size)
    for _ in range(60 * size // RATE):
        length = int(RATE * chance.uniform(0.005, 0.03))
        ring = np.sin(2 * np.pi * chance.uniform(800, 3500) * np.arange(length) / RATE)
        _place(
            signal,
            ring * np.exp(-6 * np.arange(length) / length) * chance.uniform(0, 1),
            chance.integers(size),
        )
    return signal


def engine(chance: np.random.Generator, size: int) -> np.ndarray:
    """Pulses at 20 to 60 a second whose rate wanders."""
    rate = chance.uniform(20, 60) * (1 + 0.3 * _swell(chance, size, 0.5))
    phase = np.cumsum(rate) / RATE
    return np.exp(-12 * (phase % 1)) * (1 + 0.3 * chance.standard_normal(size))


TRAINED: dict[str, Noise] = {
    kind.__name__: kind for kind in (zeros, faint, coloured, gusts, hum, clicks, melody, sweep, beeps)
}
UNHEARD: dict[str, Noise] = {kind.__name__: kind for kind in (blue, squares, rain, engine)}


def make(kind: Noise, chance: np.random.Generator, size: int) -> np.ndarray:
    """Samples [S] of a kind, float32; what is loud is brought to a peak of 0.5."""
    signal = kind(chance, size)
    return (signal * min(1.0, 0.5 / max(1e-9, np.abs(signal).max()))).astype(np.float32)


def _sloped(chance: np.random.Generator, size: int, slope: float) -> np.ndarray:
    spectrum = np.fft.rfft(chance.standard_normal(size))
    signal = np.fft.irfft(spectrum * np.maximum(1, np.arange(len(spectrum))) ** -slope, size)
    return signal / max(1e-9, signal.std()) * 0.1


def _swell(chance: np.random.Generator, size: int, rate: float) -> np.ndarray:
    points = chance.uniform(0, 1, 2 + int(np.ceil(size / RATE * rate)))
    return np.interp(np.arange(size) / RATE * rate, np.arange(len(points)), points)


def _note(chance: np.random.Generator, length: int, hertz: float, timbre: float) -> np.ndarray:
    time = np.arange(length) / RATE
    parts = [np.sin(2 * np.pi * k * hertz * time) / k**timbre for k in range(1, 9) if k * hertz < RATE / 2]
    return sum(parts) * np.exp(-time * chance.uniform(0.5, 8)) * np.minimum(1, time * chance.uniform(20, 300))


def _place(signal: np.ndarray, sound: np.ndarray, at: int) -> None:
    fits = sound[: max(0, len(signal) - at)]
    signal[at : at + len(fits)] += fits
