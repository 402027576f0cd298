"""Sessions of spoken digits: utterances of one to four digits by two voices, who speak in turn and at once.

The library's planner says who speaks when; samples are added up here, and words, turns and frames are known exactly.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import soxr
import torch
from strings import cut_edges
from torch import Tensor
from voices import RATE, Voice

from aronnax.collections.common.results.diarization import Diarization, Turn
from aronnax.collections.diarization.batch import activity
from aronnax.collections.diarization.multispeaker.batch import Session
from aronnax.collections.diarization.multispeaker.serialisation import Utterance
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.planning import Span, plan_session

FRAME = 640
"""Samples of an encoder frame, 80 ms."""
LEVEL = 0.08
"""Root mean square of an utterance before its speaker's gain."""
LENGTHS = (0.3, 0.3, 0.2, 0.2)
"""How often utterances have 1, 2, 3 and 4 digits."""


@dataclass
class Speaker:
    """A voice that makes up utterances as the planner asks for them."""

    voice: Voice
    varied: bool
    """Whether clips are cut and their loudness is changed, as for training."""
    said: list[tuple[np.ndarray, list[tuple[int, str]]]] = field(default_factory=list)
    """Samples of each utterance, and its words with the sample at which each begins."""

    def draw(self, rng: random.Random) -> Span:
        """A new utterance, all of it."""
        wanted = 1 + rng.choices(range(len(LENGTHS)), LENGTHS)[0]
        pieces: list[np.ndarray] = []
        words: list[tuple[int, str]] = []
        while len(words) < wanted:
            audio, text = rng.choice(self.voice.clips)
            if words and len(words) + len(text.split()) > len(LENGTHS):
                continue
            audio = audio.astype(np.float32)
            if self.varied and rng.random() < 0.3:
                audio = cut_edges(audio, rng.uniform(8, 30))
            if self.varied:
                audio = audio * 10 ** (rng.gauss(0, 1.5) / 20)
            if words:
                pieces.append(np.zeros(int(rng.uniform(0.0, 0.2) * RATE), np.float32))
            start = sum(map(len, pieces))
            spoken = text.split()
            words += [(start + len(audio) * place // len(spoken), word) for place, word in enumerate(spoken)]
            pieces.append(audio)
        whole = np.concatenate(pieces)
        self.said.append((whole * (LEVEL / max(1e-5, float(np.sqrt(np.mean(whole**2))))), words))
        return Span(len(self.said) - 1, 0, len(whole))


def plan(seconds: float, speakers: int, overlap: float) -> SimulationConfig:
    """What sessions are like."""
    return SimulationConfig(
        seconds=seconds, speakers=(speakers,), silence=0.1, overlap=overlap, whole_utterances=True
    )


def make(
    voices: Sequence[Voice],
    config: SimulationConfig,
    rng: random.Random,
    *,
    varied: bool,
    columns: int,
    name: str,
) -> tuple[Session, Diarization]:
    """A session of all these voices, and its turns."""
    whole = False
    while not whole:
        pool = {voice.name: Speaker(voice, varied) for voice in voices}
        turns = plan_session(pool, config, RATE, rng)
        # An utterance that is longer than the session would be cut.
        whole = turns[0].span.stop == len(pool[turns[0].speaker].said[turns[0].span.index][0])
    gains = {name: 10 ** (rng.uniform(-3, 3) / 20) for name in pool}
    signal = np.zeros(max(turn.end for turn in turns), np.float32)
    for turn in turns:
        signal[turn.at : turn.end] += gains[turn.speaker] * pool[turn.speaker].said[turn.span.index][0]
    spoken = tuple(Turn(turn.speaker, turn.at / RATE, turn.end / RATE) for turn in turns)
    active, names = activity(spoken, len(signal), RATE, FRAME, columns)
    utterances = []
    for turn in turns:
        words = pool[turn.speaker].said[turn.span.index][1]
        starts = tuple((turn.at + start) / RATE for start, _ in words)
        utterances.append(Utterance(names.index(turn.speaker), tuple(word for _, word in words), starts))
    signal /= max(1.0, float(np.abs(signal).max()))
    session = Session(name, torch.from_numpy(signal), active, tuple(utterances), {})
    return session, Diarization(spoken, len(signal) / RATE)


def corrupted(active: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Activity [T, N] as a diarizer might find it: late or early at the edges, unsure, deaf to one of two at once."""
    frames, speakers = active.shape
    found = active.copy()
    for column in range(speakers):
        for edge in np.flatnonzero(np.diff(active[:, column])):
            shift = int(draw.integers(-2, 3))
            low, high = sorted((edge + 1, edge + 1 + shift))
            found[max(0, low) : max(0, high), column] = active[edge if shift > 0 else edge + 1, column]
    both = np.flatnonzero(found.sum(1) > 1)
    if len(both) and draw.random() < 0.4:
        found[both, draw.integers(speakers)] *= draw.uniform(0.1, 0.7)
    unsure = draw.uniform(0.0, 0.35)
    noise = draw.random((frames, speakers)) * unsure
    found = np.abs(found - noise)
    flipped = draw.random((frames, speakers)) < 0.02
    return np.where(flipped, 1 - found, found).astype(np.float32)


def put_right(found: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Probabilities of a diarizer [T, 2] with its doubts but not its confusions: one speaker is always the true one.

    Where two speak at once (`active` [T, 2]) it may hear either; in silence it means who was or will be nearest.
    """
    swapped = found[:, ::-1]
    if np.abs(swapped - active).sum() < np.abs(found - active).sum():
        found, swapped = swapped, found
    alone = np.flatnonzero(active.sum(1) == 1)
    if not len(alone):
        return found
    nearest = alone[np.abs(np.arange(len(active))[:, None] - alone).argmin(1)]
    wrong = found.argmax(1) != active[nearest].argmax(1)
    one = (active.sum(1) < 2) & ((found > 0.5).sum(1) < 2)
    return np.where((wrong & one)[:, None], swapped, found)


def resampled(signal: Tensor, rate: int) -> Tensor:
    """Signals [B, S] of these recipes at another sample rate."""
    return torch.from_numpy(soxr.resample(signal.T.numpy(), RATE, rate).T.copy())
