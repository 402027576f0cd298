"""Sessions mixed in memory from the library's plans: a few milliseconds each, where Lhotse takes far longer.

`plan_session` decides who speaks when; here the samples are added up, and the labels are counted from the same plan.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from scipy.signal import fftconvolve
from voices import LEVEL, RATE, Speaker, Surroundings

from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.planning import Turn, plan_session

FRAME = 1280
"""Samples of an output frame, 80 ms."""


@dataclass(frozen=True)
class Loudness:
    """How the sound of a session is changed; levels in dB."""

    session_db: tuple[float, float] = (-24.0, 6.0)
    """Gain of the whole session."""
    tilt: float = 0.35
    """Largest weight of the sample before in each speaker's own spectral tilt."""
    noise_probability: float = 0.6
    """Share of sessions with recorded noise."""
    noise_db: tuple[float, float] = (8.0, 30.0)
    """Signal to noise ratio."""
    hiss_db: tuple[float, float] = (25.0, 60.0)
    """Signal to noise ratio of white noise, in every session."""
    silent_probability: float = 0.0
    """Share of sessions in which nobody speaks: digital silence, or nothing but noise."""
    narrow_probability: float = 0.0
    """Share of sessions that have been through a telephone's 8 kHz."""


CLEAN = Loudness((0.0, 0.0), 0.0, 0.0, (20.0, 20.0), (60.0, 60.0))


@dataclass(frozen=True)
class Session:
    """Samples [S], activity [T, N] of the speakers in the order of their first words, names, and the turns."""

    signal: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    turns: list[Turn]


def session(
    speakers: Sequence[Speaker],
    surroundings: Surroundings,
    config: SimulationConfig,
    loudness: Loudness,
    rng: random.Random,
    columns: int = 4,
) -> Session:
    """One session; labels have `columns` columns."""
    pool = {speaker.name: speaker for speaker in speakers}
    silent = loudness.silent_probability > 0 and rng.random() < loudness.silent_probability
    turns = [] if silent else plan_session(pool, config, RATE, rng)
    samples = round(config.seconds * RATE)
    names = tuple(dict.fromkeys(turn.speaker for turn in sorted(turns, key=lambda turn: turn.at)))
    in_room = bool(surroundings.rooms) and rng.random() < config.room_probability
    mixture = np.zeros(samples, np.float32)
    for name in names:
        track = np.zeros(samples, np.float32)
        for turn in turns:
            if turn.speaker == name:
                piece = pool[name].piece(turn.span, turn.speed)
                track[turn.at : turn.at + len(piece)] += piece
        if loudness.tilt:
            weight = rng.uniform(-loudness.tilt, loudness.tilt)
            track[1:] += weight * track[:-1].copy()
        if in_room:
            response = rng.choice(surroundings.rooms)
            fading = rng.uniform(0.0, 12.0) / RATE
            response = response * np.exp(-fading * np.arange(len(response), dtype=np.float32))
            track = fftconvolve(track, response.astype(np.float32))[:samples]
        mixture += track * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
    if not silent or rng.random() < 0.5:
        mixture = _noisy(mixture, surroundings, loudness, rng)
    if loudness.narrow_probability and rng.random() < loudness.narrow_probability:
        narrow = soxr.resample(mixture, RATE, RATE // 2)
        mixture = np.resize(soxr.resample(narrow, RATE // 2, RATE), samples)
    mixture *= 10 ** (rng.uniform(*loudness.session_db) / 20)
    return Session(
        mixture / max(1.0, float(np.abs(mixture).max())),
        _activity(turns, names, samples, columns),
        names,
        turns,
    )


def _noisy(
    mixture: np.ndarray, surroundings: Surroundings, loudness: Loudness, rng: random.Random
) -> np.ndarray:
    # Where nobody speaks, the noise is as loud as it would be under speech.
    power = float(np.mean(mixture**2)) or LEVEL**2
    draw = np.random.default_rng(rng.getrandbits(32))
    hiss = draw.standard_normal(len(mixture), np.float32)
    mixture = mixture + hiss * np.float32(np.sqrt(power * 10 ** (-rng.uniform(*loudness.hiss_db) / 10)))
    if surroundings.noises and rng.random() < loudness.noise_probability:
        noise = rng.choice(surroundings.noises)
        noise = np.resize(np.roll(noise, rng.randrange(len(noise))), len(mixture))
        ratio = 10 ** (-rng.uniform(*loudness.noise_db) / 10)
        scale = np.sqrt(power * ratio / (float(np.mean(noise**2)) + 1e-10))
        mixture = mixture + noise * np.float32(scale)
    return mixture.astype(np.float32)


def _activity(turns: Sequence[Turn], names: Sequence[str], samples: int, columns: int) -> np.ndarray:
    """[T, N]: 1 where a speaker speaks in at least half of a frame."""
    frames = -(-samples // FRAME)
    spoken = np.zeros((frames * FRAME, columns), bool)
    for turn in turns:
        spoken[turn.at : turn.end, names.index(turn.speaker)] = True
    return (spoken.reshape(frames, FRAME, columns).mean(1) >= 0.5).astype(np.float32)
