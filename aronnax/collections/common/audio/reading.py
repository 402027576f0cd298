"""Read any recording as one channel of float32 at the rate a model wants, whole or window by window.

A source is a path, bytes or a file object, an (array, rate) pair, an array or tensor with `source_rate`, or a
Lhotse cut. Every window equals the same samples of the whole recording. `S` samples.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from aronnax.collections.common.audio.sources import ArraySource, Channel, File, Source, open_sound, rewind
from aronnax.core.errors import AudioError, OptionError

# The resampler's filter reaches this many samples, counted at the lower of the two rates, with room to spare.
_FILTER_REACH = 1024
# Values of the source that one step of a long read holds, over all channels.
_STEP_VALUES = 1 << 23


@dataclass(frozen=True)
class AudioInfo:
    """What a recording holds, at its own rate."""

    samples: int
    """Samples of each channel."""
    sample_rate: int
    """Samples per second."""
    channels: int
    """Number of channels."""
    seconds: float
    """Duration in seconds."""


@dataclass(frozen=True)
class Audio:
    """A recording in memory: float32 samples [S] at `sample_rate`, and the name it goes by in messages."""

    samples: np.ndarray
    """The waveform in [-1, 1], float32 [S]."""
    sample_rate: int
    """Samples per second."""
    name: str
    """The file's path, or a word for what it came from."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


class AudioStream:
    """A recording read window by window at `sample_rate`; its memory does not grow with the recording.

    Not for use by two threads at once: open it once for each. Windows are cheapest read in order.

    >>> with open_audio((np.zeros(48000, np.float32), 48000), 16000) as stream:
    ...     stream.samples, stream.seconds, stream.read(100, 250).shape
    (16000, 1.0, (150,))
    """

    def __init__(self, source: Source, sample_rate: int) -> None:
        self.name = source.name
        self.sample_rate = sample_rate
        self.info = AudioInfo(
            source.length, source.sample_rate, source.channels, source.length / source.sample_rate
        )
        self.samples = max(1, int(source.length * sample_rate / source.sample_rate + 0.5))
        self._source = source

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.info.seconds

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return samples `start` to `stop` as float32 [S], fewer where the recording ends before `stop`."""
        if not 0 <= start <= stop:
            raise OptionError(f"{self.name}: a window from sample {start} to {stop} does not exist")
        stop = min(stop, self.samples)
        step = self._step()
        pieces = [self._window(begin, min(begin + step, stop)) for begin in range(start, stop, step)]
        if not pieces:
            return np.zeros(0, np.float32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _step(self) -> int:
        source_samples = _STEP_VALUES // self.info.channels
        return max(self.sample_rate, source_samples * self.sample_rate // self.info.sample_rate)

    def _window(self, start: int, stop: int) -> np.ndarray:
        source = self._source
        if source.sample_rate == self.sample_rate:
            return source.read(start, stop)
        import soxr

        # Start whole periods of the two clocks before the window, so that the resampler runs in the phase it
        # has over the whole recording, and leave the filter its reach on both sides.
        common = gcd(source.sample_rate, self.sample_rate)
        source_period, period = source.sample_rate // common, self.sample_rate // common
        reach = int(_FILTER_REACH * max(1.0, source_period / period))
        first_period = max(0, (start // period) - -(-reach // source_period))
        begin = first_period * source_period
        end = min(source.length, -(-stop * source_period // period) + reach)
        resampled = soxr.resample(source.read(begin, end), source.sample_rate, self.sample_rate)
        window = resampled[start - first_period * period : stop - first_period * period]
        # The last sample of a very short recording may lie beyond what the resampler gives.
        return np.pad(window, (0, stop - start - len(window)))


def read_audio(
    source: Any, *, sample_rate: int, channel: Channel = "mean", source_rate: int | None = None
) -> Audio:
    """Return a whole recording at `sample_rate`; `source_rate` is the rate of a bare array or tensor.

    `channel` is "mean" or a channel counted from 0. Raises AudioError on what is not a readable recording.

    >>> read_audio((np.zeros(441, np.int16), 44100), sample_rate=16000).samples.shape
    (160,)
    """
    with open_audio(source, sample_rate, channel=channel, source_rate=source_rate) as stream:
        return Audio(stream.read(0, stream.samples), sample_rate, stream.name)


def open_audio(
    source: Any, sample_rate: int, *, channel: Channel = "mean", source_rate: int | None = None
) -> AudioStream:
    """Open a recording to read it in windows at `sample_rate`; arguments and errors as for `read_audio`."""
    return AudioStream(_source(source, channel, source_rate), _valid_rate("sample_rate", sample_rate))


def probe(source: Any) -> AudioInfo:
    """Return what a file holds; compressed formats whose headers only estimate are decoded once to count."""
    opened = _source(source, "mean", None)
    opened.close()
    return AudioInfo(opened.length, opened.sample_rate, opened.channels, opened.length / opened.sample_rate)


def _source(source: Any, channel: Channel, rate: int | None) -> Source:
    if isinstance(source, (str, os.PathLike)):
        return _file_source(os.fspath(source), _existing_file(Path(source)), channel)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _file_source("audio bytes", _seekable(io.BytesIO(source)), channel)
    if hasattr(source, "load_audio"):
        return ArraySource(f"cut {source.id}", source.load_audio(), int(source.sampling_rate), channel)
    if hasattr(source, "read"):
        return _file_source(str(getattr(source, "name", "file object")), _seekable(source), channel)
    if isinstance(source, tuple) and len(source) == 2:
        source, rate = source
        if _is_array(rate):
            raise AudioError("a pair must be (array, rate), in this order")
    if not _is_array(source):
        raise AudioError(
            f"a {type(source).__name__} is not a recording; give a path, bytes, a file object, an (array,"
            " rate) pair, a tensor with its rate, or a cut"
        )
    if rate is None:
        raise AudioError("an array does not say its sample rate; give (array, rate), or the rate beside it")
    return ArraySource("array", _as_numpy(source), _valid_rate("the array's rate", rate), channel)


def _file_source(name: str, file: File, channel: Channel) -> Source:
    import soundfile

    try:
        return open_sound(name, file, channel)
    except soundfile.SoundFileError as error:
        reason = str(error)
    except TypeError:
        # libsndfile takes the extension .raw for samples without a header.
        reason = "no header says its rate and format"
    try:
        from aronnax.collections.common.audio.ffmpeg import open_media

        rewind(file)
        return open_media(name, file, channel)
    except ModuleNotFoundError as error:
        raise AudioError(
            f"{name}: is not audio in a format libsndfile reads ({reason}); for the formats FFmpeg reads,"
            " such as m4a, webm and video: pip install 'aronnax[media]'"
        ) from error


def _existing_file(path: Path) -> Path:
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give an audio file")
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: may not be read; check its permissions")
    if path.stat().st_size == 0 and path.is_file():
        raise AudioError(f"{path}: is an empty file")
    return path


def _seekable(file: IO[bytes]) -> IO[bytes]:
    if not (hasattr(file, "seekable") and file.seekable()):
        file = io.BytesIO(_bytes_only(file.read()))
    file.seek(0)
    if not _bytes_only(file.read(1)):
        raise AudioError(f"{getattr(file, 'name', 'the file object or bytes')}: is empty")
    file.seek(0)
    return file


def _bytes_only(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise AudioError('a file object must be opened in binary mode: open(path, "rb")')
    return data


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and len(value.shape) > 0


def _as_numpy(array: Any) -> np.ndarray:
    if not hasattr(array, "detach"):
        return np.asarray(array)
    array = array.detach().cpu()
    return np.asarray((array.float() if array.is_floating_point() else array).numpy())


def _valid_rate(what: str, rate: Any) -> int:
    if isinstance(rate, bool) or not hasattr(rate, "__int__") or int(rate) != rate or rate < 1:
        raise AudioError(f"{what} must be a whole number of samples per second, not {rate!r}")
    return int(rate)
