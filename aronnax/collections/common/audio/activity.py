"""Where speech is: an energy gate that follows the noise floor, or the Silero detector where it is installed.

Everything is counted in samples of the recording; `S` samples, `N` frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from aronnax.collections.common.audio.reading import AudioStream, open_audio
from aronnax.core.errors import MissingExtraError, OptionError

Regions = list[tuple[int, int]]

_BLOCK_SECONDS = 60
_FLOOR_SECONDS = 15
_SHORT_SECONDS, _SHORT_RANGE_DB = 2, 20.0
_SILERO_RATE, _SILERO_FRAME = 16000, 512


class Stream(Protocol):
    """A recording that can be read piece by piece."""

    @property
    def sample_rate(self) -> int:
        """Samples per second it is read at."""

    @property
    def samples(self) -> int:
        """Length in samples."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return samples from `start` to `stop` as float32 [S]."""


@dataclass(frozen=True)
class ActivityConfig:
    """When a frame is taken for speech, and how frames become regions; durations are in seconds."""

    frame: float = 0.01
    """Length of the frames whose level the energy gate measures."""
    margin_db: float = 8.0
    """How far above the noise floor around it a frame's level must lie."""
    quietest_db: float = -80.0
    """Level, relative to full scale, below which nothing is speech."""
    range_db: float = 40.0
    """How far below the recording's loudest hundredth speech may lie."""
    silero_threshold: float = 0.5
    """Probability of speech from which Silero's frames count."""
    min_silence: float = 0.3
    """Shorter pauses do not end a region."""
    min_speech: float = 0.1
    """Shorter regions are dropped."""
    padding: float = 0.2
    """Kept on both sides of a region."""


def speech_regions(
    audio: np.ndarray | Stream,
    rate: int | None = None,
    *,
    detector: Literal["energy", "silero"] = "energy",
    config: ActivityConfig | None = None,
) -> Regions:
    """Return the (start, stop) samples of speech, in order and apart; none of it where there is no speech.

    `audio` is a waveform [S] at `rate`, or an open stream (as `open_audio` gives), which is read once in bounded
    memory. Raises MissingExtraError when Silero is asked for and not installed.

    >>> tone = np.sin(np.arange(16000) * 0.3).astype(np.float32) * np.hanning(16000).astype(np.float32)
    >>> silence = np.zeros(16000, np.float32)
    >>> [(start, stop)] = speech_regions(np.concatenate([silence, tone, silence]), 16000)
    >>> 12000 < start < 17000 and 31000 < stop < 36000
    True
    """
    config = config or ActivityConfig()
    if detector not in ("energy", "silero"):
        raise OptionError(f"detector={detector!r} is unknown; use energy or silero")
    stream = open_audio((audio, rate), rate or 0) if isinstance(audio, np.ndarray) else audio
    if detector == "silero":
        heard = AudioStream(_AsSource(stream), _SILERO_RATE)
        speech = _silero_frames(heard, config.silero_threshold)
        regions = _regions(speech, _SILERO_FRAME, heard.samples, _SILERO_RATE, config)
        return [
            (start * stream.sample_rate // _SILERO_RATE, _scaled_stop(stop, heard, stream))
            for start, stop in regions
        ]
    frame = max(1, round(config.frame * stream.sample_rate))
    loud = _loud_frames(_levels(stream, frame), config)
    return _regions(loud, frame, stream.samples, stream.sample_rate, config)


class _AsSource:
    """A stream taken for a recording, to be read at another rate."""

    channels = 1

    def __init__(self, stream: Stream) -> None:
        self.name, self.sample_rate, self.length = "stream", stream.sample_rate, stream.samples
        self.read = stream.read

    def close(self) -> None:
        """The stream stays open: it belongs to the caller."""


def _levels(stream: Stream, frame: int) -> np.ndarray:
    """Return each frame's level [N] in dB below full scale; a last partial frame counts as one."""
    block = frame * max(1, _BLOCK_SECONDS * stream.sample_rate // frame)
    levels = []
    for start in range(0, stream.samples, block):
        samples = stream.read(start, start + block)
        frames = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
        # The mean of a frame is no sound: a microphone's offset must not pass for it.
        levels.append(frames.var(axis=1, dtype=np.float64))
    return 10.0 * np.log10(np.concatenate(levels) + 1e-12)


def _loud_frames(levels: np.ndarray, config: ActivityConfig) -> np.ndarray:
    """Return which frames [N] rise above the noise floor: the quietest tenth of the seconds around them."""
    second = max(1, round(1.0 / config.frame))
    whole = np.pad(levels, (0, -len(levels) % second), constant_values=np.inf).reshape(-1, second)
    quiet = np.sort(whole, axis=1)[:, second // 10]
    # A last second of a few frames only shows no floor of its own, unless there is nothing else.
    if np.isinf(quiet).all():
        quiet[:] = levels.min()
    reach = _FLOOR_SECONDS // 2
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(quiet, reach, constant_values=np.inf), 2 * reach + 1
    )
    floor = np.repeat(around.min(axis=1), second)[: len(levels)]
    threshold = floor + config.margin_db
    if len(levels) < _SHORT_SECONDS * second:
        # A clip cut close around a word never shows its noise floor.
        threshold = np.minimum(threshold, levels.max() - _SHORT_RANGE_DB)
    loudest = float(np.percentile(levels, 99))
    return levels > np.maximum(threshold, max(config.quietest_db, loudest - config.range_db))


def _silero_frames(stream: Stream, threshold: float) -> np.ndarray:
    """Return which frames [N] of a stream at 16 kHz Silero takes for speech."""
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise MissingExtraError("silero-vad", "vad", "the Silero speech detector") from error
    import torch

    model: Any = load_silero_vad()
    model.reset_states()
    block = _SILERO_FRAME * (_BLOCK_SECONDS * _SILERO_RATE // _SILERO_FRAME)
    speech = []
    with torch.inference_mode():
        for start in range(0, stream.samples, block):
            samples = stream.read(start, start + block)
            frames = np.pad(samples, (0, -len(samples) % _SILERO_FRAME)).reshape(-1, _SILERO_FRAME)
            speech += [model(torch.from_numpy(frame), _SILERO_RATE).item() >= threshold for frame in frames]
    return np.array(speech, dtype=bool)


def _scaled_stop(stop: int, heard: Stream, stream: Stream) -> int:
    if stop == heard.samples:
        return stream.samples
    return min(stream.samples, -(-stop * stream.sample_rate // heard.sample_rate))


def _regions(active: np.ndarray, frame: int, samples: int, rate: int, config: ActivityConfig) -> Regions:
    """Turn frames [N] into regions: bridge short pauses, drop short bursts, pad, and join what touches."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    spans = np.minimum(edges.reshape(-1, 2) * frame, samples)
    spans = _joined(spans, round(config.min_silence * rate))
    spans = spans[spans[:, 1] - spans[:, 0] >= round(config.min_speech * rate)]
    padding = round(config.padding * rate)
    spans = np.clip(spans + np.array([-padding, padding]), 0, samples)
    return [(int(start), int(stop)) for start, stop in _joined(spans, 1)]


def _joined(spans: np.ndarray, gap: int) -> np.ndarray:
    """Join neighbours [N, 2] less than `gap` samples apart."""
    if len(spans) == 0:
        return spans
    apart = spans[1:, 0] - spans[:-1, 1] >= gap
    starts = spans[np.concatenate([[True], apart]), 0]
    stops = spans[np.concatenate([apart, [True]]), 1]
    return np.stack([starts, stops], axis=1)
