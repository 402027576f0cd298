"""Turns as they end: the steps of postprocessing.py for frames that come a few at a time.

The turns are those that `postprocessing.turns` finds in all frames together, each told as soon as nothing that
follows can change it: its padding, and the shortest pause behind it, have passed. `T` frames, `N` speakers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aronnax.collections.common.results.diarization import Turn
from aronnax.collections.diarization.postprocessing import (
    GRID,
    PostProcessing,
    confidence,
    on_grid,
    speaking,
)

Span = tuple[np.float32, np.float32]


class LiveTurns:
    """Probabilities in, turns that are over out; only frames that a turn to come may hold are kept.

    >>> live = LiveTurns(("A",), PostProcessing())
    >>> live.push(np.array([[0.9], [0.9], [0.1]]))
    [Turn(speaker='A', start=0.0, end=0.16, confidence=0.9)]
    >>> live.finish(0.24)
    []
    """

    def __init__(self, names: tuple[str, ...], options: PostProcessing, frame_seconds: float = 0.08) -> None:
        self.names, self.frame_seconds = names, frame_seconds
        self._speakers = [_Speaker(options) for _ in names]
        self._frames = np.zeros((0, len(names)), np.float32)
        self._dropped = 0

    def push(self, probabilities: np.ndarray) -> list[Turn]:
        """Probabilities [T, N] of the frames that follow -> the turns that are now sure, sorted by their ends."""
        spans = [
            speaker.push(on_grid(probabilities[:, column], self.frame_seconds))
            for column, speaker in enumerate(self._speakers)
        ]
        self._frames = np.concatenate([self._frames, np.asarray(probabilities, np.float32)])
        found = self._turns(spans, None)
        earliest = int(min(speaker.earliest for speaker in self._speakers) / self.frame_seconds)
        self._frames = self._frames[max(0, earliest - 1 - self._dropped) :]
        self._dropped = max(self._dropped, earliest - 1)
        return found

    def finish(self, duration: float) -> list[Turn]:
        """The turns that last to the end of the recording, which is `duration` seconds long, or were unsure."""
        return self._turns([speaker.finish() for speaker in self._speakers], duration)

    def _turns(self, spans: list[list[Span]], duration: float | None) -> list[Turn]:
        found = []
        for column, (name, own) in enumerate(zip(self.names, spans)):
            for start, end in own:
                last = float(end) if duration is None else min(float(end), duration)
                begin, last = round(float(start), 3), round(last, 3)
                if last > begin:
                    frames = self._frames[:, column]
                    sure = confidence(frames, begin, last, self.frame_seconds, before=self._dropped)
                    found.append(Turn(name, begin, last, sure))
        return sorted(found, key=lambda turn: (turn.end, turn.start, turn.speaker))


@dataclass
class _Speaker:
    """One speaker's switch, the stretch that may still grow by touching the next, and the one before it."""

    options: PostProcessing
    steps: int = 0
    on: bool = False
    began: int = 0
    touching: Span | None = None
    pausing: Span | None = None

    @property
    def earliest(self) -> float:
        """The second before which no turn that is still to be told begins."""
        held = [span[0] for span in (self.pausing, self.touching) if span is not None]
        return float(min([*held, self._start(self.began if self.on else self.steps)]))

    def push(self, fine: np.ndarray) -> list[Span]:
        """Probabilities [G] on the grid -> the spans that are now sure."""
        states = speaking(fine, self.options, self.on)
        found: list[Span] = []
        for edge in np.flatnonzero(np.diff(states.astype(np.int8), prepend=np.int8(self.on))):
            found += self._edge(self.steps + int(edge), bool(states[edge]))
        self.steps += len(fine)
        return found + self._settled()

    def finish(self) -> list[Span]:
        """All that is left; speech that lasts to the end ends a step of the grid before it."""
        found = self._edge(self.steps - 1, False) if self.on else []
        found += self._close()
        if self.pausing is not None:
            found.append(self.pausing)
        self.touching = self.pausing = None
        return found

    def _edge(self, step: int, on: bool) -> list[Span]:
        self.on = on
        if on:
            self.began = step
            return []
        span = self._start(self.began), np.float32(step * GRID + self.options.pad_offset)
        if self.touching is not None and self.touching[1] >= span[0]:
            self.touching = self.touching[0], span[1]
            return []
        found = self._close()
        self.touching = span
        return found

    def _start(self, step: int) -> np.float32:
        return np.float32(max(0.0, step * GRID - self.options.pad_onset))

    def _close(self) -> list[Span]:
        """The touching stretch is over: dropped if short, joined to the one before if the pause is."""
        span, self.touching = self.touching, None
        if span is None or span[1] - span[0] < np.float32(self.options.min_duration_on):
            return []
        before = self.pausing
        if before is not None and not self._apart(before, span[0]):
            self.pausing = before[0], span[1]
            return []
        self.pausing = span
        return [] if before is None else [before]

    def _settled(self) -> list[Span]:
        """What can no longer be joined to anything, since whatever follows starts too late."""
        earliest = self._start(self.began if self.on else self.steps)
        found: list[Span] = []
        if self.touching is not None and self.touching[1] < earliest:
            found += self._close()
        following = earliest if self.touching is None else self.touching[0]
        if self.pausing is not None and self.pausing[1] < following and self._apart(self.pausing, following):
            found.append(self.pausing)
            self.pausing = None
        return found

    def _apart(self, span: Span, start: np.float32) -> bool:
        return bool(start - span[1] >= np.float32(self.options.min_duration_off))
