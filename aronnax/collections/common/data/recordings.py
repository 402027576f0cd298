"""Lhotse cuts from what is at hand: files, pieces of tar archives, encoded bytes, or samples made when asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from aronnax.core.errors import AudioError

RECORDINGS = "recordings"
"""Custom field of a cut without audio of its own: the cuts that it consists of, any number of them."""


@dataclass
class TarAudioSource(AudioSource):
    """Audio lying uncompressed in a tar archive, read by position when it is needed."""

    position: int = 0
    """First byte of the member's data."""
    size: int = 0
    """Bytes of the member's data."""

    def _prepare_for_reading(self, offset: float, duration: float | None) -> io.BytesIO:
        with open(self.source, "rb") as file:
            file.seek(self.position)
            return io.BytesIO(file.read(self.size))


@dataclass
class MadeAudioSource(AudioSource):
    """Audio that a function makes when it is loaded, in the process that loads it."""

    make: Callable[[], np.ndarray] | None = None
    """Returns float32 samples [S] or [C, S]; must always return the same ones."""
    sampling_rate: int = 16000

    def load_audio(
        self,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> np.ndarray:
        """The made samples [C, S] between `offset` and `offset + duration` seconds."""
        assert self.make is not None
        samples = np.atleast_2d(np.asarray(self.make(), dtype=np.float32))
        start = round(offset * self.sampling_rate)
        stop = None if duration is None else start + round(duration * self.sampling_rate)
        return samples[:, start:stop]


def consists_of_others(cut: Cut) -> bool:
    """Whether a cut has no audio of its own, but that of any number of others."""
    return RECORDINGS in (cut.custom or {})


def heard(cut: Cut) -> list[Cut]:
    """The cuts whose audio a batch needs of this one: those it consists of, or itself."""
    return list(cut.custom[RECORDINGS]) if consists_of_others(cut) else [cut]


def consisting_of(cut: Cut, parts: Sequence[Cut]) -> Cut:
    """The same cut with other cuts in place of those it consists of, longer or shorter as they are."""
    more = sum(part.duration for part in parts) - sum(part.duration for part in heard(cut))
    return fastcopy(
        cut, duration=round(cut.duration + more, 6), custom={**cut.custom, RECORDINGS: list(parts)}
    )


def file_source(path: str, channels: int) -> AudioSource:
    """A file on disk, or a URL."""
    return AudioSource(type="url" if "://" in path else "file", channels=list(range(channels)), source=path)


def made_cut(
    make: Callable[[], np.ndarray],
    samples: int,
    sample_rate: int,
    text: str,
    id: str,
    *,
    language: str | None = None,
    speaker: str | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Cut:
    """A cut whose samples `make` computes when a worker loads it: for speech that is synthesised while training.

    Args:
        make: Returns exactly `samples` samples; must be picklable and always return the same.
        samples: Their number, known beforehand so that the cut can be put into a bucket.
    """
    source = MadeAudioSource(type="memory", channels=[0], source=b"", make=make, sampling_rate=sample_rate)
    recording = Recording(
        id=id,
        sources=[source],
        sampling_rate=sample_rate,
        num_samples=samples,
        duration=samples / sample_rate,
    )
    return cut_of(recording, id, text, language=language, speaker=speaker, custom=custom)


def cut_of(
    recording: Recording,
    id: str,
    text: str | None,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    language: str | None = None,
    speaker: str | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Cut:
    """A cut over (a part of) a recording with one supervision that covers it."""
    duration = recording.duration - offset if duration is None else duration
    supervision = SupervisionSegment(
        id=id,
        recording_id=recording.id,
        start=0.0,
        duration=duration,
        channel=recording.channel_ids if recording.num_channels > 1 else recording.channel_ids[0],
        text=text,
        language=language,
        speaker=speaker,
    )
    common: dict[str, Any] = {
        "id": id,
        "start": offset,
        "duration": duration,
        "recording": recording,
        "supervisions": [supervision],
        "custom": dict(custom or {}),
    }
    if recording.num_channels > 1:
        return MultiCut(channel=recording.channel_ids, **common)
    return MonoCut(channel=recording.channel_ids[0], **common)


def probe_bytes(data: bytes, name: str) -> tuple[int, int, int]:
    """Samples per channel, rate and channels of encoded audio.

    Raises:
        AudioError: the bytes are not audio that libsndfile reads.
    """
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{name}: not readable as audio: {error}") from None
    return info.frames, info.samplerate, info.channels
