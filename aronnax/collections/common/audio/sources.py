"""Recordings at their own rate, mixed to one channel: arrays in memory, libsndfile files, decoded streams.

A source reads any range of its samples; reading hours piece by piece holds only the piece. `S` samples, `C`
channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from aronnax.core.errors import AudioError

Channel = int | Literal["mean"]
File = Path | IO[bytes]

# A decoded stream shorter than this is kept, decoded once, in memory; of a longer one the last part is kept.
_KEPT_SAMPLES = 1 << 22
_BLOCK_SAMPLES = 1 << 16
# libsndfile lands beside the place asked for when it seeks in these, so they are read from start to end.
_SEQUENTIAL_FORMATS = {"OGG", "MP3"}
_INTEGER_SCALES = {"int16": 2.0**15, "int32": 2.0**31}


class Source(Protocol):
    """A recording of `length` samples at `sample_rate` Hz, read as one channel."""

    name: str
    sample_rate: int
    channels: int
    length: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to `stop` as float32 [S]."""

    def close(self) -> None:
        """Let go of the file."""


class ArraySource:
    """Samples in memory, [S], [C, S] or [S, C]: float in [-1, 1], or int16, int32 or uint8 to be scaled."""

    def __init__(self, name: str, array: np.ndarray, sample_rate: int, channel: Channel) -> None:
        if array.dtype.kind != "f" and array.dtype.name not in (*_INTEGER_SCALES, "uint8"):
            raise AudioError(
                f"{name}: samples of type {array.dtype} are not audio; give float values in [-1, 1],"
                " or int16, int32 or uint8"
            )
        self.name, self.sample_rate = name, sample_rate
        self._samples = _channels_last(name, array)
        self._channel = channel
        self.length, self.channels = self._samples.shape
        _check_source(self, channel)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to `stop` as float32 [S]."""
        block = self._samples[start:stop]
        scale = _INTEGER_SCALES.get(block.dtype.name)
        values = block.astype(np.float32)
        if scale:
            values /= np.float32(scale)
        elif block.dtype == np.uint8:
            values = (values - 128.0) / 128.0
        return checked(self.name, mix(values, self._channel), start, self.sample_rate)

    def close(self) -> None:
        """Nothing to let go of."""


class SeekingSource:
    """A file libsndfile can seek in exactly (WAV, FLAC, AIFF and their like)."""

    def __init__(self, name: str, sound: Any, channel: Channel) -> None:
        self.name, self.sample_rate = name, sound.samplerate
        self.channels, self.length = sound.channels, sound.frames
        self._sound, self._channel = sound, channel
        _check_source(self, channel)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to `stop` as float32 [S]."""
        import soundfile

        try:
            self._sound.seek(start)
            block = self._sound.read(stop - start, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            begin, end = start / self.sample_rate, stop / self.sample_rate
            raise AudioError(
                f"{self.name}: damaged or cut short between {begin:.2f} s and {end:.2f} s ({error})"
            ) from error
        if len(block) < stop - start:
            raise _cut_short(self.name, start + len(block), self.length, self.sample_rate)
        return checked(self.name, mix(block, self._channel), start, self.sample_rate)

    def close(self) -> None:
        """Close the file."""
        self._sound.close()


class StreamedSource:
    """A file only decoded from its start: the last part is kept, and going further back starts over."""

    def __init__(
        self,
        name: str,
        decode: Callable[[], Iterator[np.ndarray]],
        sample_rate: int,
        channels: int,
        channel: Channel,
        declared: int | None = None,
        tolerance: int = 0,
    ) -> None:
        self.name, self.sample_rate, self.channels = name, sample_rate, channels
        self._decode, self._channel = decode, channel
        self._kept: deque[np.ndarray] = deque()
        self._blocks: Iterator[np.ndarray] = decode()
        self._start, self._stop, self.length = 0, 0, 1
        _check_source(self, channel)
        # One pass counts: headers of compressed files are estimates. Short recordings stay in memory from it.
        while self._fill():
            if self._stop - self._start > _KEPT_SAMPLES:
                self._drop(self._stop - _BLOCK_SAMPLES)
        self.length = self._stop
        _check_source(self, channel)
        if declared is not None and self.length < declared - tolerance:
            raise _cut_short(name, self.length, declared, sample_rate)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from `start` to `stop` as float32 [S]."""
        if start < self._start:
            self._restart()
        while self._stop < stop and self._fill():
            self._drop(start - _KEPT_SAMPLES)
        if self._stop < stop:
            raise _cut_short(self.name, self._stop, self.length, self.sample_rate)
        pieces, place = [], self._start
        for block in self._kept:
            pieces.append(block[max(0, start - place) : max(0, stop - place)])
            place += len(block)
        return np.concatenate(pieces)

    def close(self) -> None:
        """Stop decoding and let go of the file."""
        self._blocks = iter(())
        self._kept.clear()

    def _restart(self) -> None:
        self._blocks = self._decode()
        self._kept.clear()
        self._start = self._stop = 0

    def _fill(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        samples = checked(self.name, mix(block, self._channel), self._stop, self.sample_rate)
        self._kept.append(samples)
        self._stop += len(samples)
        return True

    def _drop(self, until: int) -> None:
        while self._kept and self._start + len(self._kept[0]) <= until:
            self._start += len(self._kept.popleft())


def open_sound(name: str, file: File, channel: Channel) -> Source:
    """Return a source for a file libsndfile reads; raises soundfile's own error for an unknown format."""
    import soundfile

    _check_wav_is_whole(name, file)
    sound = soundfile.SoundFile(file)
    if sound.format not in _SEQUENTIAL_FORMATS:
        return SeekingSource(name, sound, channel)

    def decode() -> Iterator[np.ndarray]:
        rewind(file)
        with soundfile.SoundFile(file) as reader:
            try:
                while len(block := reader.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    yield block
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise AudioError(f"{name}: damaged or cut short ({error})") from error

    declared = sound.frames if 0 < sound.frames < 1 << 40 else None
    rate, channels = sound.samplerate, sound.channels
    sound.close()
    return StreamedSource(name, decode, rate, channels, channel, declared, tolerance=rate)


def rewind(file: File) -> None:
    """Go back to the start of a file object; a path needs nothing."""
    if not isinstance(file, Path):
        file.seek(0)


def mix(block: np.ndarray, channel: Channel) -> np.ndarray:
    """Return the mean of the channels, or the one asked for, of a block [S, C] as float32 [S]."""
    if channel != "mean":
        return np.ascontiguousarray(block[:, channel], dtype=np.float32)
    if block.shape[1] == 1:
        return block[:, 0].astype(np.float32, copy=False)
    return block.mean(axis=1, dtype=np.float32)


def checked(name: str, samples: np.ndarray, start: int, sample_rate: int) -> np.ndarray:
    """Return `samples` [S], or raise an AudioError that says where the first NaN or infinite one is."""
    if not np.isfinite(samples.sum(dtype=np.float64)):
        where = start + int(np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError(
            f"{name}: sample {where} (at {where / sample_rate:.3f} s) is NaN or infinite; repair the file"
        )
    return samples


def _check_source(source: Source, channel: Channel) -> None:
    if source.length == 0:
        raise AudioError(f"{source.name}: holds no samples, so there is nothing to read")
    if channel != "mean" and not (isinstance(channel, int) and 0 <= channel < source.channels):
        raise AudioError(
            f"{source.name}: channel={channel!r} does not exist; it has {source.channels} channel(s), counted"
            ' from 0, or use "mean"'
        )


def _channels_last(name: str, array: np.ndarray) -> np.ndarray:
    if array.size == 0:
        return array.reshape(0, 1)
    if array.ndim == 1:
        return array[:, None]
    if array.ndim != 2 or (array.shape[0] == array.shape[1] > 1):
        raise AudioError(
            f"{name}: an array of shape {array.shape} is not a recording; give [samples],"
            " [channels, samples] or [samples, channels]"
        )
    return array.T if array.shape[0] < array.shape[1] else array


def _cut_short(name: str, found: int, declared: int, sample_rate: int) -> AudioError:
    return AudioError(
        f"{name}: cut short: it holds {found / sample_rate:.2f} s of the {declared / sample_rate:.2f} s its"
        " header declares; fetch it again, or re-encode what is there"
    )


def _check_wav_is_whole(name: str, file: File) -> None:
    """Raise when a WAV file ends before the data its header declares: libsndfile itself says nothing."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            missing, byte_rate = _missing_wav_bytes(opened)
    else:
        missing, byte_rate = _missing_wav_bytes(file)
        rewind(file)
    if missing > 0:
        raise AudioError(
            f"{name}: cut short: {missing / byte_rate:.2f} s of the audio its header declares are missing;"
            " fetch it again, or re-encode what is there"
        )


def _missing_wav_bytes(file: IO[bytes]) -> tuple[int, int]:
    """Return how many declared bytes of sound lie beyond the end of a WAV file, and its bytes per second."""
    size = file.seek(0, 2)
    place, byte_rate = 12, 1
    file.seek(0)
    if file.read(4) != b"RIFF":
        return 0, byte_rate
    while place + 8 <= size:
        file.seek(place)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"fmt ":
            byte_rate = max(1, int.from_bytes(file.read(12)[8:], "little"))
        if header[:4] == b"data":
            # Writers that stream leave a length near the largest possible: it declares nothing.
            streamed = length >= 0x7FFF0000
            return (0 if streamed else place + 8 + length - size), byte_rate
        place += 8 + length + length % 2
    return 0, byte_rate
