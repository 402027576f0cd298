"""The voices of `diarizer-small`: real speakers in memory, with a few speeds each, and who is never trained on.

More voices are made of the speakers who are trained on, with other pitches and vocal tracts, and some by espeak-ng.

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
import soxr
import torch
from scipy.signal import resample_poly

from aronnax.collections.common.audio import warp
from aronnax.collections.common.audio.activity import speech_regions
from aronnax.collections.common.audio.speak import EspeakSynthesizer
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

WARPED_CLIPS = 4
"""Recordings of a speaker that other voices are made of, at most."""
TONGUES = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "de", "es", "fr", "it", "pl", "ru", "nl")
VARIANTS = ("m1", "f1", "m4", "f2", "croak", "m6", "f5", "klatt2", "m8", "f4", "klatt4", "steph")
SENTENCES = (
    "The harbour was still dark when the first boats came in with their lamps along the wall.",
    "My grandmother kept a jar of old buttons and knew where every single one had come from.",
    "If you follow the river for about an hour you will find a mill, a bridge and not much else.",
    "Nobody in the office could say who had ordered forty chairs, or where they ought to stand.",
)


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

    def piece(self, span: Span, speed: float) -> np.ndarray:
        """Samples of a recording played at a speed, pitch with it; made once and kept in 16 bits."""
        if speed == 1.0:
            return self.recordings[span.index][span.start : span.stop]
        if (span.index, speed) not in self.played:
            ratio = Fraction(speed).limit_denominator(50)
            made = resample_poly(self.recordings[span.index], ratio.denominator, ratio.numerator)
            self.played[span.index, speed] = np.clip(made * 32767, -32768, 32767).astype(np.int16)
        return self.played[span.index, speed][span.start : span.stop].astype(np.float32) / 32767


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


def made_of(speakers: Sequence[Speaker], copies: int, seed: int = 0) -> list[Speaker]:
    """Speakers with another pitch and vocal tract than those they are made of, enough to be somebody else."""
    draws, rng, made = torch.Generator().manual_seed(seed), random.Random(seed), []
    for speaker in speakers:
        clips = speaker.recordings[:WARPED_CLIPS]
        for copy in range(copies):
            # Up and down in turn; a tract changes less than a pitch, and mostly the same way.
            way = 1 if (copy + rng.randrange(2)) % 2 else -1
            formant = 1 + way * rng.uniform(0.08, 0.18)
            pitch = formant * (1 + rng.choice((way, way, -way)) * rng.uniform(0.0, 0.2))
            many = torch.ones(len(clips))
            voice = Speaker(f"{speaker.name}~{copy}")
            for clip in warp.warp_voices(
                clips,
                RATE,
                pitch=pitch * many,
                formant=formant * many,
                tempo=many + 0.1 * (torch.rand(1, generator=draws) - 0.5),
            ):
                voice.add(clip)
            made.append(voice)
    return [voice for voice in made if voice.recordings]


def synthesised() -> list[Speaker]:
    """Voices of espeak-ng, each a tongue with a variant and a pitch of its own."""
    rng, engine, made = random.Random(0), EspeakSynthesizer(), []
    for number, variant in enumerate([*VARIANTS, *VARIANTS]):
        tongue = TONGUES[(5 * number + number // len(VARIANTS)) % len(TONGUES)]
        voice = Speaker(f"espeak/{tongue}+{variant}")
        rate, pitch = rng.randint(120, 180), rng.randint(20, 80)
        for sentence in rng.sample(SENTENCES, 2):
            audio, source = engine.speak(sentence, voice=f"{tongue}+{variant}", rate=rate, pitch=pitch)
            voice.add(soxr.resample(audio, source, RATE))
        made.append(voice)
    return made


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
