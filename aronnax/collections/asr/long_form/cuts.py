"""Where to cut a long recording for a model that reads short ones: in silences, or with overlap in speech.

Everything is counted in samples of the recording, whole encoder frames from its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aronnax.collections.common.audio.activity import Stream

LEVEL_SECONDS = 0.02
"""Length of the frames whose level decides where to cut."""

SILENCE_SECONDS = 0.3
"""A cut is the middle of so long a stretch, the quietest there is."""

SILENCE_DB = 20.0
"""A stretch so far below the level of the speech around it is a silence, and nothing is lost by cutting there."""

SEARCHED = 0.5
"""A piece ends in this last share of its longest length."""

OVERLAP_SECONDS = 1.0
"""Where a cut cannot be in a silence, both pieces hear so much beyond it."""


@dataclass(frozen=True)
class Piece:
    """Samples [start, stop) to hear; of what is heard, [first, last) belongs to this piece.

    Where a piece overlaps its neighbour, the border between them lies in the middle of the overlap.
    """

    start: int
    stop: int
    first: int
    last: int


def pieces_of(
    stream: Stream, longest: float, frame: int, start: int = 0, stop: int | None = None
) -> Iterator[Piece]:
    """Pieces of at most `longest` seconds that cover the samples [start, stop) of a recording.

    `frame` is the number of samples in an encoder frame: pieces begin at whole frames after `start`. The recording
    is read once, a piece at a time.
    """
    stop = stream.samples if stop is None else stop
    rate = stream.sample_rate
    overlap = max(frame, round(min(OVERLAP_SECONDS, longest / 8) * rate) // frame * frame)
    most = max(4 * overlap, round(longest * rate) // frame * frame)
    begin = first = start
    while stop - begin > most:
        cut, silent = _cut(stream, begin, begin + most, rate)
        cut = start + (cut - start) // frame * frame
        if silent:
            yield Piece(begin, cut, first, cut)
            begin = first = cut
        else:
            # The piece keeps its longest length: the cut moves back by what is heard beyond it.
            cut = min(cut, begin + most - overlap)
            yield Piece(begin, cut + overlap, first, cut)
            begin, first = cut - overlap, cut
    yield Piece(begin, stop, first, stop)


def _cut(stream: Stream, begin: int, end: int, rate: int) -> tuple[int, bool]:
    """The middle of the quietest stretch in the searched part of [begin, end), and whether it is a silence."""
    size = max(1, round(LEVEL_SECONDS * rate))
    samples = stream.read(begin, end)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = frames.var(axis=1, dtype=np.float64)
    width = max(1, round(SILENCE_SECONDS / LEVEL_SECONDS))
    mean = np.convolve(power, np.full(width, 1.0 / width), mode="valid")
    lowest = int(len(mean) * (1 - SEARCHED))
    searched = mean[lowest:]
    # The last of equally quiet stretches, so that pieces are long.
    place = lowest + len(searched) - 1 - int(np.argmin(searched[::-1]))
    speech = float(np.percentile(power, 90))
    silent = float(mean[place]) * 10 ** (SILENCE_DB / 10) <= speech or speech == 0.0
    return begin + (place + width // 2) * size, silent
