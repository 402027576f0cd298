"""Which of two speakers each stretch of a session is of, by what voices sound like: a second opinion on a diarizer.

A diarizer says where one speaks and where two do. Each stretch of one speaker is described by means and deviations of
its cepstra, in the directions in which people differ most in proportion to how one person varies (linear discriminant
analysis), and the stretches are shared out between two voices so that this is likeliest (probabilistic LDA). Only
those directions are learned.

`S` samples at 8 kHz, `T` encoder frames of 80 ms, `C` cepstral frames of 10 ms, `K` directions, `n` stretches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np
import scipy.fft
import scipy.linalg
from sessions import FRAME, Speaker
from voices import RATE, Voice

from aronnax.collections.common.results.diarization import Diarization, Turn

WINDOW, HOP, BANDS, CEPSTRA = 256, 80, 40, 24
"""Samples of a cepstral frame and between frames, mel bands, and cepstra; the first one, loudness, only varies."""
PER_FRAME = FRAME // HOP
QUIET = 1e-3
"""Frames of less than this share of a stretch's loudest energy do not describe it."""
DIP, DIP_FRAMES = 0.03, 3
"""A stretch is cut where the energy falls below this share of that around it, for so many cepstral frames."""
SHORTEST, DESCRIBED = 12, 8
"""Cepstral frames of the shortest stretch that is cut off, and loud ones that a description takes."""
NEAR, CHANGE = 0.25, 1.0
"""Seconds between stretches that are likely of one speaker, and what a change costs there in log-likelihood."""
TRUST = 0.5
"""Log-likelihood of a stretch that is of whom the diarizer is sure of."""
STARTS = 12
"""Random ways to share out the stretches that the search begins with, beside the diarizer's own."""


@dataclass(frozen=True)
class VoiceSpace:
    """Directions in which voices differ, scaled so that what varies within one voice has a variance of 1."""

    mean: np.ndarray
    directions: np.ndarray
    """[47, K]."""
    between: np.ndarray
    """Variance between voices [K]."""
    seconds: float
    """Speech of the utterances that this was learned from; shorter ones are less sure."""

    @classmethod
    def of(cls, voices: Sequence[Voice], dimensions: int = 16, utterances: int = 12) -> VoiceSpace:
        """What differs between these voices, from a few utterances of each."""
        rng, found, lengths = random.Random(0), [], []
        for voice in voices:
            speaker = Speaker(voice, varied=False)
            for _ in range(utterances):
                speaker.draw(rng)
            described = [describe(*cepstra(samples)) for samples, _ in speaker.said]
            found.append([numbers for numbers, _ in described])
            lengths += [seconds for _, seconds in described]
        numbers = np.array(found)
        centres = numbers.mean(1)
        within = np.mean([np.cov(rows.T) for rows in numbers], axis=0) + 1e-3 * np.eye(numbers.shape[2])
        between, directions = scipy.linalg.eigh(np.cov(centres.T) - within / utterances, within)
        best = slice(None, -dimensions - 1, -1)
        return cls(
            centres.mean(0), directions[:, best], np.maximum(between[best], 1e-2), float(np.mean(lengths))
        )

    def likelihood(self, chosen: np.ndarray, described: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Log-likelihood that stretches `chosen` [.., n] of 0 and 1 share a voice, but for what all choices have."""
        sums, counts = (chosen * weights) @ described, (chosen @ weights)[..., None]
        spread = 1 + self.between * counts
        return 0.5 * (sums**2 * self.between / spread - np.log(spread)).sum(-1)


def cepstra(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cepstra [C, 24] and energies [C] of samples [S]."""
    padded = np.pad(signal / (12.5 * np.sqrt(np.mean(signal**2)) + 1e-6), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return scipy.fft.dct(np.log(power @ _bands() + 1e-5), axis=1, norm="ortho")[:, :CEPSTRA], power.sum(1)


def _bands() -> np.ndarray:
    """Triangles [bins, bands], even on the mel scale from 60 to 3900 Hz."""
    edges = np.linspace(*(2595 * np.log10(1 + np.array([60.0, 3900.0]) / 700)), BANDS + 2)
    hertz, bins = 700 * (10 ** (edges / 2595) - 1), np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, middle, high = hertz[:-2], hertz[1:-1], hertz[2:]
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)


def describe(found: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, float]:
    """Means and deviations [47] of the louder ones of cepstra [C, 24], and how many seconds those are."""
    loud = found[_loud(energy)]
    return np.concatenate([loud[:, 1:].mean(0), loud.std(0)]), len(loud) * HOP / RATE


def _loud(energy: np.ndarray) -> np.ndarray:
    """Which of the cepstral frames with these energies [C] describe a stretch."""
    return energy > QUIET * energy.max(initial=0.0)


def stretches(alone: np.ndarray, energy: np.ndarray) -> list[tuple[int, int]]:
    """Cepstral frames [start, stop) of each stretch of one speaker: `alone` [T] cut where the energy [C] dips."""
    found = []
    for first, last in _runs(alone):
        start, stop = first * PER_FRAME, min(last * PER_FRAME, len(energy))
        smooth = np.convolve(np.pad(energy[start:stop], 2, mode="edge"), np.ones(5) / 5, "valid")
        around = np.array([smooth[max(0, at - 30) : at + 30].max() for at in range(len(smooth))])
        cuts = [start]
        for low, high in _runs(smooth < DIP * around):
            middle = start + (low + high) // 2
            inside = high - low >= DIP_FRAMES and low > 0 and high < len(smooth)
            if inside and min(middle - cuts[-1], stop - middle) >= SHORTEST:
                cuts.append(middle)
        found += zip(cuts, [*cuts[1:], stop])
    return [(start, stop) for start, stop in found if _loud(energy[start:stop]).sum() >= DESCRIBED]


def regroup(signal: np.ndarray, probabilities: np.ndarray, space: VoiceSpace) -> Diarization:
    """The turns of two speakers, "0" and "1" as they arrive, in samples [S]; probabilities [T, 2] of a diarizer."""
    active = probabilities > 0.5
    alone = active.sum(1) == 1
    found, energy = cepstra(signal[: len(active) * FRAME])
    pieces = stretches(alone, energy)
    if len(pieces) > 1:
        described, seconds = zip(*(describe(found[start:stop], energy[start:stop]) for start, stop in pieces))
        weights = np.minimum(1.0, np.array(seconds) / space.seconds)
        logits = np.log(np.clip(probabilities, 1e-3, 0.999) / np.clip(1 - probabilities, 1e-3, 0.999))
        sides = logits[:, 0] - logits[:, 1]
        heard = np.tanh(
            [sides[start // PER_FRAME : -(-stop // PER_FRAME)].mean() / 2 for start, stop in pieces]
        )
        gaps = np.array([later[0] - earlier[1] for earlier, later in pairwise(pieces)]) * HOP / RATE
        who = _share_out((np.array(described) - space.mean) @ space.directions, weights, heard, gaps, space)
        edges = np.array(pieces)
        for frame in np.flatnonzero(alone):
            middle = (frame + 0.5) * PER_FRAME
            nearest = np.argmin(np.maximum(np.maximum(edges[:, 0] - middle, middle - edges[:, 1]), 0))
            active[frame] = np.arange(2) == who[nearest]
    runs = sorted((start, stop, column) for column in range(2) for start, stop in _runs(active[:, column]))
    names = {column: str(place) for place, column in enumerate(dict.fromkeys(run[2] for run in runs))}
    second = FRAME / RATE
    turns = tuple(Turn(names[column], start * second, stop * second) for start, stop, column in runs)
    return Diarization(turns, len(signal) / RATE)


def _share_out(
    described: np.ndarray, weights: np.ndarray, heard: np.ndarray, gaps: np.ndarray, space: VoiceSpace
) -> np.ndarray:
    """0 or 1 for each stretch [n]: the likeliest that turning over neighbouring ones finds.

    `heard` [n] is 1 where the diarizer is sure of the first speaker and -1 of the second; `gaps` [n - 1] in seconds.
    """
    count, near = len(described), np.where(gaps < NEAR, CHANGE, 0.0)

    def score(ways: np.ndarray) -> np.ndarray:
        likely = space.likelihood(ways, described, weights) + space.likelihood(1 - ways, described, weights)
        # Who of the two is called first does not matter.
        agreed = np.abs((1 - 2 * ways) @ heard)
        return likely - np.abs(np.diff(ways, axis=1)) @ near + TRUST * agreed

    spans = list(combinations_with_replacement(range(count), 2))
    turned = np.array([[start <= at <= stop for at in range(count)] for start, stop in spans])
    draw = np.random.default_rng(0)
    ends = []
    for way in [(heard < 0).astype(float), *(draw.random((STARTS, count)) < 0.5).astype(float)]:
        best, reached = way, float(score(way[None])[0])
        while True:
            ways = np.where(turned, 1 - best, best)
            scores = score(ways)
            if scores.max() <= reached + 1e-9:
                break
            best, reached = ways[scores.argmax()], float(scores.max())
        ends.append((reached, best))
    return max(ends, key=lambda end: end[0])[1].astype(int)


def _runs(held: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
