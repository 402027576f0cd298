"""The voices of `diarizer-small`: real speakers, kept in memory with a few speeds each, and who is never trained on.

A speaker is held out by name, so that nobody who is tested on was heard in training at any speed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from aronnax.collections.common.audio.activity import speech_regions
from aronnax.collections.diarization.simulation.planning import Span
from aronnax.collections.diarization.simulation.voices import SPEECH

RATE = 16000
LEVEL = 0.05
"""Root mean square that the speech of every recording is brought to, about -26 dBFS."""
HELD_OUT_CLIPS = 30
"""Speakers of train-clean-100 that are kept for tests."""
CALIBRATION_CLIPS = 10
"""Of these, the first ones choose the threshold and are not tested on."""
HELD_OUT_LONG = 2
"""Speakers of test-other that are kept for tests."""


@dataclass
class Speaker:
    """Recordings of one speaker and the stretches of speech in each; `played` holds them at other speeds."""

    name: str
    recordings: list[np.ndarray] = field(default_factory=list)
    spans: list[list[Span]] = field(default_factory=list)
    played: dict[tuple[int, float], np.ndarray] = field(default_factory=dict)

    def add(self, signal: np.ndarray) -> None:
        """One more recording, brought to the common level; one without speech is left out."""
        regions = speech_regions(signal, RATE, config=SPEECH)
        if not regions:
            return
        spoken = np.concatenate([signal[start:stop] for start, stop in regions])
        signal = signal * (LEVEL / max(1e-6, float(np.sqrt(np.mean(spoken**2)))))
        index = len(self.recordings)
        self.recordings.append(signal.astype(np.float32))
        self.spans.append([Span(index, start, min(stop, len(signal))) for start, stop in regions])

    def draw(self, rng: random.Random) -> Span:
        """A stretch of speech, long ones more often (what `plan_session` asks of a voice)."""
        spans = rng.choice(self.spans)
        return rng.choices(spans, [span.stop - span.start for span in spans])[0]

    def at(self, index: int, speed: float) -> np.ndarray:
        """A recording played at a speed, pitch with it; made once and kept in 16 bits."""
        if speed == 1.0:
            return self.recordings[index]
        if (index, speed) not in self.played:
            ratio = Fraction(speed).limit_denominator(50)
            made = resample_poly(self.recordings[index], ratio.denominator, ratio.numerator)
            self.played[index, speed] = np.clip(made * 32767, -32768, 32767).astype(np.int16)
        return self.played[index, speed].astype(np.float32) / 32767


def read_speakers(folder: str | Path) -> list[Speaker]:
    """All speakers of a manifest folder whose lines have `speaker`."""
    found: dict[str, Speaker] = {}
    for line in (Path(folder) / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        signal, rate = soundfile.read(Path(folder) / entry["audio_filepath"], dtype="float32")
        assert rate == RATE
        name = f"{entry['subset']}/{entry['speaker']}"
        found.setdefault(name, Speaker(name)).add(signal)
    return [speaker for speaker in found.values() if speaker.recordings]


def split(speakers: Iterable[Speaker]) -> tuple[list[Speaker], list[Speaker], list[Speaker]]:
    """(to train on, held out with one clip each, held out with ten); the same for every call."""
    speakers = sorted(speakers, key=lambda speaker: speaker.name)
    long = [speaker for speaker in speakers if speaker.name.startswith("test-other/")]
    short = [speaker for speaker in speakers if not speaker.name.startswith("test-other/")]
    rng = random.Random(7)
    held_long, held_short = rng.sample(long, HELD_OUT_LONG), rng.sample(short, HELD_OUT_CLIPS)
    kept = {speaker.name for speaker in [*held_long, *held_short]}
    return [speaker for speaker in speakers if speaker.name not in kept], held_short, held_long


@dataclass
class Surroundings:
    """Room responses, each from its direct sound on, and noises."""

    rooms: Sequence[np.ndarray] = ()
    noises: Sequence[np.ndarray] = ()

    @classmethod
    def read(cls, folder: str | Path | None) -> Surroundings:
        """Those of shared/data/rir_noise; none without a folder."""
        if folder is None:
            return cls()
        rooms, noises = [], []
        for line in (Path(folder) / "manifest.jsonl").read_text("utf-8").splitlines():
            entry = json.loads(line)
            signal, rate = soundfile.read(
                Path(folder) / entry["audio_filepath"], dtype="float32", always_2d=True
            )
            assert rate == RATE
            for channel in signal.T[:1] if entry["kind"] == "noise" else signal.T:
                if entry["kind"] == "noise":
                    noises.append(channel)
                else:
                    response = channel[int(np.abs(channel).argmax()) :][: RATE // 2]
                    rooms.append(response / np.sqrt(np.sum(response**2)))
        return cls(rooms, noises)
