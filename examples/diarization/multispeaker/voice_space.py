"""What a voice sounds like, as a few numbers: means and deviations of its cepstra, in the directions in which people
differ most in proportion to how one person varies (linear discriminant analysis).

`S` samples at 8 kHz, `C` cepstral frames of 10 ms, `K` directions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.fft
import scipy.linalg
from sessions import FRAME, Speaker
from voices import RATE, Voice

from aronnax.core.errors import ManifestError

WINDOW, HOP, BANDS, CEPSTRA = 256, 80, 40, 24
"""Samples of a cepstral frame and between frames, mel bands, and cepstra; the first one, loudness, only varies."""
PER_FRAME = FRAME // HOP
QUIET = 1e-3
"""Frames of less than this share of a stretch's loudest energy do not describe it."""
DESCRIBED = 9
"""Loud cepstral frames that a description takes at least."""


@dataclass(frozen=True)
class VoiceSpace:
    """Directions in which voices differ, scaled so that what varies within one voice has a variance of 1."""

    mean: np.ndarray
    directions: np.ndarray
    """[47, K]."""
    between: np.ndarray
    """Variance between voices [K]."""

    @classmethod
    def of(cls, voices: Sequence[Voice], dimensions: int = 32, utterances: int = 12) -> VoiceSpace:
        """What differs between these voices, of different people, from a few utterances of each."""
        rng, found = random.Random(0), []
        for voice in voices:
            speaker = Speaker(voice, varied=False)
            # Some of what was recorded is too short, or silent.
            for _ in range(2 * utterances):
                speaker.draw(rng)
            described = [describe(*cepstra(samples)) for samples, _ in speaker.said]
            described = [numbers for numbers in described if numbers is not None][:utterances]
            if len(described) == utterances:
                found.append(described)
        if len(found) < 2:
            raise ManifestError(
                "fewer than two voices have recordings that are long and loud enough to describe"
            )
        numbers = np.array(found)
        centres = numbers.mean(1)
        within = np.mean([np.cov(rows.T) for rows in numbers], axis=0) + 1e-3 * np.eye(numbers.shape[2])
        between, directions = scipy.linalg.eigh(np.cov(centres.T) - within / utterances, within)
        best = slice(None, -dimensions - 1, -1)
        return cls(centres.mean(0), directions[:, best], np.maximum(between[best], 0.0))

    def place(self, numbers: np.ndarray) -> np.ndarray:
        """Descriptions [.., 47] -> [.., K], with a variance of 1 over utterances of many voices."""
        return (numbers - self.mean) @ self.directions / np.sqrt(1 + self.between)

    @property
    def telling(self) -> np.ndarray:
        """The share of each direction's variance that is between voices [K]."""
        return self.between / (1 + self.between)


def cepstra(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cepstra [C, 24] and energies [C] of samples [S]."""
    padded = np.pad(signal / (12.5 * np.sqrt(np.mean(signal**2)) + 1e-6), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return scipy.fft.dct(np.log(power @ _bands() + 1e-5), axis=1, norm="ortho")[:, :CEPSTRA], power.sum(1)


@cache
def _bands() -> np.ndarray:
    """Triangles [bins, bands], even on the mel scale from 60 to 3900 Hz."""
    edges = np.linspace(*(2595 * np.log10(1 + np.array([60.0, 3900.0]) / 700)), BANDS + 2)
    hertz, bins = 700 * (10 ** (edges / 2595) - 1), np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, middle, high = hertz[:-2], hertz[1:-1], hertz[2:]
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)


def describe(found: np.ndarray, energy: np.ndarray) -> np.ndarray | None:
    """Means and deviations [47] of the louder ones of cepstra [C, 24]; None where these are too few."""
    loud = found[energy > QUIET * energy.max(initial=0.0)]
    return np.concatenate([loud[:, 1:].mean(0), loud.std(0)]) if len(loud) >= DESCRIBED else None


def runs_of(held: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
