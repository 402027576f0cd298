"""Other people's recordings, whatever they say, cut into pieces as long as a digit; and voices warped anew."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from voices import RATE, Voice, real_voices

from aronnax.collections.common.audio.activity import speech_regions
from aronnax.collections.common.audio.warp import equalise
from aronnax.core.errors import ManifestError

PIECE = (0.25, 0.7)
"""Seconds that a spoken digit lasts."""
FASTER, FARTHEST = 0.07, 0.2
"""Deviation, and largest magnitude, of the log factor by which a voice is played faster when it is warped anew."""
BANDS, DECIBELS = 8, 2.0
"""Of the filter through which half of the voices that are warped anew are heard."""


def pieces_of(folder: str, doubles: int = 0, seed: int = 0, cache: Path | None = None) -> list[Voice]:
    """A voice of each speaker of a manifest folder, and warped doubles; clips are stretches about as long as a digit.

    `cache` is a folder where the doubles are left for the next time.
    """
    rng, found, manifest = random.Random(0), {}, Path(folder) / "manifest.jsonl"
    if not manifest.exists():
        raise ManifestError(
            f"{manifest} is not there: data.others must be a folder of recordings with that file"
        )
    for line in manifest.read_text("utf-8").splitlines():
        entry = json.loads(line)
        signal, rate = soundfile.read(Path(folder) / entry["audio_filepath"], dtype="float32")
        signal = soxr.resample(signal, rate, RATE)
        clips = found.setdefault(entry["speaker"], [])
        for start, stop in speech_regions(signal, RATE):
            while stop - start > PIECE[0] * RATE:
                end = min(stop, start + int(rng.uniform(*PIECE) * RATE))
                piece = signal[start:end] * np.hanning(end - start).clip(max=0.1) * 10
                # The words of a session tell the diarizer nothing.
                clips.append(((piece * (0.1 / max(1e-4, piece.std()))).astype(np.float32), "one"))
                start = end
    people = {name: clips for name, clips in found.items() if clips}
    own = [Voice(name, clips) for name, clips in people.items()]
    return own + (real_voices(people, doubles, seed, cache) if doubles else [])


@dataclass(frozen=True)
class Warped(Sequence[tuple[np.ndarray, str]]):
    """Clips, each played `factor` times as fast and then filtered by `decibels` [1, bands], when it is asked for."""

    clips: Sequence[tuple[np.ndarray, str]]
    factor: float
    decibels: Tensor | None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        audio, text = self.clips[index]
        audio = soxr.resample(audio.astype(np.float32), self.factor, 1.0)
        if self.decibels is not None:
            audio = equalise(torch.from_numpy(audio)[None], self.decibels)[0].numpy()
        return audio, text


def anew(voice: Voice, rng: random.Random) -> Voice:
    """The same voice as somebody a little different would have it."""
    factor = math.exp(max(-FARTHEST, min(FARTHEST, rng.gauss(0, FASTER))))
    decibels = torch.tensor([[rng.gauss(0, DECIBELS) for _ in range(BANDS)]])
    return Voice(voice.name, Warped(voice.clips, factor, decibels if rng.random() < 0.5 else None))
