"""Recordings without speech among the training data, so that a model learns to write nothing for them.

Sounds are generated (silence, noises, hum, tones) or pieces of recordings (noise, music). Each takes over the prompt
slots of the recording before it: whatever is asked for, the right answer to noise is an empty one. The draws depend
on the seed and the place in the stream alone. Source: the noise-robust fine-tuning of arXiv:2406.19674.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from aronnax.core.errors import ConfigError

if TYPE_CHECKING:
    from lhotse.cut import Cut

NON_SPEECH = "nonspeech"
"""Custom field of a cut without speech: its empty text is meant, whatever its prompt asks for."""

Sound = Literal["silence", "white", "pink", "brown", "hum", "tones", "clicks"]


@dataclass(frozen=True)
class NonSpeechConfig:
    """How much of the training data is without speech, and what it sounds like."""

    share: float = 0.0
    """Of all training recordings, 0 to below 1."""
    sounds: tuple[Sound, ...] = get_args(Sound)
    """What is generated."""
    recordings: str | None = None
    """Manifest of recordings without speech (NeMo's or Lhotse's): noises, music."""
    recorded: float = 0.5
    """Where `recordings` is given: share of its pieces among the recordings without speech."""
    seconds: tuple[float, float] = (0.5, 15.0)
    """Shortest and longest."""
    level_db: tuple[float, float] = (-60.0, -10.0)
    """Loudness of what is generated, in dB below full scale."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(
                f"data.non_speech.share is {self.share}; it lies between 0 and 1, 1 not included"
            )
        if not 0 <= self.recorded <= 1:
            raise ConfigError(f"data.non_speech.recorded is {self.recorded}; it lies between 0 and 1")
        if not 0 < self.seconds[0] <= self.seconds[1]:
            raise ConfigError(
                f"data.non_speech.seconds is {list(self.seconds)}; it must be two rising durations"
            )
        if self.level_db[0] > self.level_db[1]:
            raise ConfigError(f"data.non_speech.level_db is {list(self.level_db)}; give the softer one first")
        if not self.sounds and (self.recordings is None or self.recorded < 1):
            raise ConfigError(
                "data.non_speech.sounds is empty: name sounds, or recordings with recorded: 1.0"
            )


def mix_non_speech(
    cuts: Iterable[Cut], config: NonSpeechConfig, sample_rate: int, seed: int = 0
) -> Iterator[Cut]:
    """The cuts with recordings without speech among them; `config.share` of the result on average.

    Raises ManifestError when the manifest of recordings cannot be used.
    """
    for index, cut in enumerate(cuts):
        yield cut
        draws = random.Random(f"non-speech {seed} {index}")
        number = 0
        while draws.random() < config.share:
            yield _cut(f"nonspeech-{seed}-{index}-{number}", cut, config, sample_rate, draws)
            number += 1


def generated_noises(sample_rate: int = 16000, seconds: float = 10.0, each: int = 4) -> list[Cut]:
    """Noises to add to speech, `each` of white, pink and brown noise and hum; they have no supervisions."""
    kinds: tuple[Sound, ...] = ("white", "pink", "brown", "hum")
    cuts = [
        _made(
            f"noise-{kind}-{number}",
            MadeSound(kind, round(seconds * sample_rate), sample_rate, -20.0, number),
        )
        for kind in kinds
        for number in range(each)
    ]
    return [cut.drop_supervisions() for cut in cuts]


@dataclass(frozen=True)
class MadeSound:
    """A sound without speech, made when called: always the same samples, float32 [S]."""

    kind: Sound
    samples: int
    sample_rate: int
    level_db: float
    """Root mean square in dB below full scale; of no account for silence."""
    seed: int

    def __call__(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.samples])
        sound = _SOUNDS[self.kind](self.samples, self.sample_rate, rng)
        power = float(np.sqrt(np.mean(np.square(sound)))) if self.samples else 0.0
        if power > 0:
            sound = sound * (10 ** (self.level_db / 20) / power)
        return np.clip(sound, -1.0, 1.0).astype(np.float32)


def _cut(id: str, before: Cut, config: NonSpeechConfig, sample_rate: int, draws: random.Random) -> Cut:
    from aronnax.collections.common.data.filters import cut_language
    from aronnax.collections.common.data.slots import cut_slots

    custom: dict[str, Any] = {**cut_slots(before), NON_SPEECH: True}
    language = cut_language(before)
    seconds = draws.uniform(*config.seconds)
    if config.recordings is not None and draws.random() < config.recorded:
        return _piece(id, config.recordings, seconds, draws, language, custom)
    sound = MadeSound(
        draws.choice(config.sounds),
        round(seconds * sample_rate),
        sample_rate,
        draws.uniform(*config.level_db),
        draws.randrange(2**31),
    )
    return _made(id, sound, language, custom)


def _made(
    id: str, sound: MadeSound, language: str | None = None, custom: Mapping[str, Any] | None = None
) -> Cut:
    from aronnax.collections.common.data.recordings import made_cut

    return made_cut(sound, sound.samples, sound.sample_rate, "", id, language=language, custom=custom)


def _piece(
    id: str,
    manifest: str,
    seconds: float,
    draws: random.Random,
    language: str | None,
    custom: Mapping[str, Any],
) -> Cut:
    from aronnax.collections.common.audio.perturb import manifest_cuts
    from aronnax.collections.common.data.recordings import cut_of

    whole = draws.choice(manifest_cuts(manifest))
    seconds = min(seconds, whole.duration)
    offset = whole.start + draws.uniform(0.0, whole.duration - seconds)
    return cut_of(whole.recording, id, "", offset=offset, duration=seconds, language=language, custom=custom)


def _coloured(exponent: float) -> Callable[[int, int, np.random.Generator], np.ndarray]:
    """Noise whose power falls with the frequency to that exponent."""

    def make(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequency = np.fft.rfftfreq(samples, 1 / sample_rate)
        frequency[:1] = 1.0
        shaped = spectrum / np.maximum(frequency, 20.0) ** (exponent / 2)
        return np.asarray(np.fft.irfft(shaped, samples))

    return make


def _hum(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(samples) / sample_rate
    mains = rng.choice([50.0, 60.0])
    waves = [rng.uniform(0.1, 1) / k * np.sin(2 * np.pi * mains * k * time) for k in range(1, 8)]
    return np.asarray(np.sum(waves, axis=0) + 0.02 * rng.standard_normal(samples))


def _tones(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Notes of random length and pitch with their harmonics: a little like music."""
    sound = np.zeros(samples)
    start = 0
    while start < samples:
        length = min(samples - start, int(sample_rate * rng.uniform(0.1, 0.6)) + 1)
        time = np.arange(length) / sample_rate
        pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
        note = sum(
            np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 5) if pitch * k < sample_rate / 2
        )
        sound[start : start + length] = note * np.exp(-3 * time)
        start += length
    return sound


def _clicks(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Knocks and clicks over a faint noise."""
    sound = 0.02 * rng.standard_normal(samples)
    for start in rng.integers(0, max(1, samples), size=max(1, int(2 * samples / sample_rate))):
        length = min(samples - int(start), int(sample_rate * rng.uniform(0.002, 0.05)) + 1)
        fall = np.exp(-np.arange(length) / (0.2 * length + 1))
        sound[start : start + length] += rng.standard_normal(length) * fall
    return sound


def _silence(samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(samples)


_SOUNDS: dict[Sound, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "silence": _silence,
    "white": _coloured(0.0),
    "pink": _coloured(1.0),
    "brown": _coloured(2.0),
    "hum": _hum,
    "tones": _tones,
    "clicks": _clicks,
}
