"""Perturb recordings for training: speed, gain, rooms and noise, done by Lhotse when the audio is loaded.

What happens to a cut depends on the seed and the cut's id alone: not on the order, the worker, or where a run
was resumed. Another seed each epoch gives other draws.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from aronnax.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut, MonoCut


GENERATED = "generated"
"""Stands for noises made by a program in place of a manifest of recorded ones."""


@dataclass(frozen=True)
class PerturbConfig:
    """What may happen to each training recording, in this order; the default leaves all as they are."""

    speed_factors: tuple[float, ...] = (0.9, 1.1)
    """Speeds, pitch with them, one of which is drawn."""
    speed_probability: float = 0.0
    """Share of recordings whose speed changes."""
    gain_db: tuple[float, float] = (-6.0, 6.0)
    """Range the gain is drawn from, in dB."""
    gain_probability: float = 0.0
    """Share of recordings made louder or softer."""
    rir: str | None = None
    """Manifest of room impulse responses (NeMo's or Lhotse's)."""
    rir_probability: float = 0.5
    """Share of recordings put into a room, where `rir` is given."""
    noise: str | None = None
    """Manifest of noises (NeMo's or Lhotse's), or `generated` for white, pink and brown noise and hum."""
    noise_probability: float = 0.5
    """Share of recordings noise is added to, where `noise` is given."""
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    """Range the ratio of signal to noise is drawn from, in dB."""

    def __post_init__(self) -> None:
        for name in ("speed_probability", "gain_probability", "rir_probability", "noise_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not a probability; use a value from 0 to 1"
                )
        for name in ("gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name}=({low}, {high}) is empty; give the lower bound first")
        if not self.speed_factors or min(self.speed_factors) <= 0:
            raise ConfigError(
                f"speed_factors={self.speed_factors} must hold at least one factor, all above 0"
            )


def perturb_cuts(cuts: CutSet, config: PerturbConfig, seed: int = 0) -> CutSet:
    """Return the cuts, lazy where they were, each perturbed by its own draws from `seed`; ids are kept.

    Raises ManifestError at once when a noise or room manifest cannot be used.
    """
    for manifest in (config.noise, config.rir):
        if manifest is not None:
            manifest_cuts(manifest)
    return cuts.map(_Perturb(config, seed))


def change_speed(cut: Cut, factor: float) -> Cut:
    """Return the cut played `factor` times as fast, pitch and duration with it."""
    return cut if factor == 1.0 else cut.perturb_speed(factor, affix_id=False)


def change_gain(cut: Cut, gain_db: float) -> Cut:
    """Return the cut `gain_db` dB louder."""
    return cut.perturb_volume(10.0 ** (gain_db / 20.0), affix_id=False)


def add_room(cut: Cut, rooms: Sequence[MonoCut], draws: random.Random) -> Cut:
    """Return the cut heard in one of the rooms, at its own energy."""
    return cut.reverb_rir(rir_recording=draws.choice(rooms).recording, affix_id=False)


def add_noise(cut: Cut, noises: Sequence[MonoCut], snr_db: float, draws: random.Random) -> Cut:
    """Return the cut over one of the noises, from a random place or repeated, `snr_db` dB below it."""
    from lhotse.cut.set import append_cuts

    noise: Cut = draws.choice(noises)
    if noise.sampling_rate != cut.sampling_rate:
        noise = noise.resample(cut.sampling_rate)
    if noise.duration > cut.duration:
        place = draws.uniform(0.0, noise.duration - cut.duration)
        noise = noise.truncate(offset=place, duration=cut.duration, preserve_id=True)
    elif noise.duration < cut.duration:
        noise = append_cuts([noise] * int(-(-cut.duration // noise.duration)))
        noise = noise.truncate(duration=cut.duration, preserve_id=True)
    return cut.mix(noise, snr=snr_db, preserve_id="left")


@dataclass(frozen=True)
class _Perturb:
    """The draws for one cut; picklable, so that worker processes can be handed it."""

    config: PerturbConfig
    seed: int

    def __call__(self, cut: Cut) -> Cut:
        config, draws = self.config, random.Random(f"{self.seed} {cut.id}")
        # Every draw is made whether used or not: turning one perturbation on does not change the others.
        chances = [draws.random() for _ in range(4)]
        factor = draws.choice(config.speed_factors)
        gain, snr = draws.uniform(*config.gain_db), draws.uniform(*config.noise_snr_db)
        if chances[0] < config.speed_probability:
            cut = change_speed(cut, factor)
        if chances[1] < config.gain_probability:
            cut = change_gain(cut, gain)
        if config.rir is not None and chances[2] < config.rir_probability:
            cut = add_room(cut, manifest_cuts(config.rir), draws)
        if config.noise is not None and chances[3] < config.noise_probability:
            cut = add_noise(cut, manifest_cuts(config.noise), snr, draws)
        return cut


@lru_cache(maxsize=16)
def manifest_cuts(path: str) -> tuple[MonoCut, ...]:
    """Return the recordings of a NeMo or Lhotse manifest as cuts of their first channel."""
    if path == GENERATED:
        # Imported here: this module lies below the data's.
        from aronnax.collections.common.data.non_speech import generated_noises

        return tuple(generated_noises())
    from lhotse import CutSet, MonoCut, Recording, load_manifest

    from aronnax.collections.common.data.manifest import read_manifest

    if _is_nemo(path):
        cuts = []
        for entry in read_manifest(path):
            recording = Recording.from_file(entry.audio_filepath)
            duration = recording.duration - entry.offset if entry.duration is None else entry.duration
            cuts.append(MonoCut(recording.id, entry.offset, duration, channel=0, recording=recording))
        return tuple(cuts)
    items = load_manifest(path)
    if isinstance(items, CutSet):
        return tuple(items)
    return tuple(MonoCut(item.id, 0.0, item.duration, channel=0, recording=item) for item in items)


def _is_nemo(path: str) -> bool:
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest of noises or rooms ({error})") from error
    return isinstance(first, dict) and "audio_filepath" in first
