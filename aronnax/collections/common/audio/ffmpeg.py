"""Recordings only FFmpeg reads (m4a, webm, the sound of videos), through PyAV and its bundled libraries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from aronnax.collections.common.audio.sources import Channel, File, StreamedSource, rewind
from aronnax.core.errors import AudioError


class _Borrowed:
    """A file object lent to PyAV, which closes what it is given."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def open_media(name: str, file: File, channel: Channel) -> StreamedSource:
    """Return a source for the first audio track of a file; AudioError when there is none or it is damaged."""
    import av

    try:
        with _open(file) as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: has no audio track")
            stream = container.streams.audio[0]
            rate, channels = stream.rate, stream.channels
            seconds = float(stream.duration * stream.time_base) if stream.duration else None
    except (av.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(
            f"{name}: is not audio in a format libsndfile or FFmpeg reads ({_reason(error)})"
        ) from error
    declared = None if seconds is None else int(seconds * rate)
    # Containers declare the encoder's own padding too, and round to their clock.
    tolerance = rate + (declared or 0) // 50
    return StreamedSource(
        name, lambda: _decode(name, file, rate), rate, channels, channel, declared, tolerance
    )


def _open(file: File) -> Any:
    import av

    rewind(file)
    return av.open(str(file) if isinstance(file, Path) else _Borrowed(file), metadata_errors="ignore")


def _decode(name: str, file: File, rate: int) -> Iterator[np.ndarray]:
    """Yield the first audio track as float32 blocks [S, C] at its own rate."""
    import av

    seconds = 0.0
    try:
        with _open(file) as container:
            stream = container.streams.audio[0]
            stream.thread_type = "AUTO"
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            # Frames are a few milliseconds; a second at a time is cheaper for whoever takes the blocks.
            gathered: list[np.ndarray] = []
            for frame in chain(container.decode(stream), [None]):
                gathered.extend(converted.to_ndarray().T for converted in to_float.resample(frame))
                held = sum(map(len, gathered))
                if held >= rate or (frame is None and held):
                    seconds += held / rate
                    yield np.concatenate(gathered)
                    gathered = []
    except (av.FFmpegError, ValueError, OSError) as error:
        raise AudioError(f"{name}: damaged or cut short after {seconds:.2f} s ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
