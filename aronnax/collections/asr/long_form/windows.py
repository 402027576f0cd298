"""Where the windows of a long recording lie: overlapping contexts, and centres that cover every frame once.

All borders are whole encoder frames, counted in samples, so that nothing is rounded and nothing drifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """Lengths in encoder frames: `left` context, `centre` that is kept, `right` context."""

    left: int
    centre: int
    right: int
    samples_per_frame: int

    @property
    def samples(self) -> int:
        """Samples of a whole window."""
        return (self.left + self.centre + self.right) * self.samples_per_frame


@dataclass(frozen=True)
class Window:
    """Samples [start, stop) to encode; of its encoder frames, [skip, skip + keep) are the centre.

    `first` is the recording's frame at which the centre begins; `keep` None goes to the window's end.
    """

    start: int
    stop: int
    first: int
    skip: int
    keep: int | None


def windows_over(samples: int, shape: Windows) -> Iterator[Window]:
    """Windows whose centres follow each other from the first frame of a recording to its last.

    A window that reaches the end of the recording keeps all frames up to there, and is the last.
    """
    per_frame = shape.samples_per_frame
    first = 0
    while first * per_frame < samples:
        begin = max(first - shape.left, 0)
        stop = (first + shape.centre + shape.right) * per_frame
        last = stop >= samples
        yield Window(
            start=begin * per_frame,
            stop=min(stop, samples),
            first=first,
            skip=first - begin,
            keep=None if last else shape.centre,
        )
        if last:
            return
        first += shape.centre
