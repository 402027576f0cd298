"""Other people's recordings, whatever they say, cut into pieces as long as a digit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import soundfile
import soxr
from voices import RATE, Voice

from aronnax.collections.common.audio.activity import speech_regions

PIECE = (0.25, 0.7)
"""Seconds that a spoken digit lasts."""


def pieces_of(folder: str) -> list[Voice]:
    """A voice of each speaker of a manifest folder, whose clips are stretches of speech about as long as a digit."""
    rng, found = random.Random(0), {}
    for line in (Path(folder) / "manifest.jsonl").read_text("utf-8").splitlines():
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
    return [Voice(name, clips) for name, clips in found.items() if clips]
