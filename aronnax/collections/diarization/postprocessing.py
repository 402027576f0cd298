"""From probabilities to turns: hysteresis, padding, and removal of what is too short.

The steps and their arithmetic (float32 seconds on a grid of 10 ms) are those the published thresholds were tuned
with. `T` frames, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from aronnax.collections.common.results.diarization import Turn
from aronnax.core.errors import OptionError

GRID = 0.01
"""Seconds of the grid on which turns begin and end before they are padded."""


@dataclass(frozen=True)
class PostProcessing:
    """Thresholds and durations; the defaults cut at one half and change nothing else."""

    onset: float = 0.5
    """A turn begins where the probability rises above this."""
    offset: float = 0.5
    """It ends where the probability falls below this."""
    pad_onset: float = 0.0
    """Seconds put before each turn."""
    pad_offset: float = 0.0
    """Seconds put behind each turn."""
    min_duration_on: float = 0.0
    """Turns shorter than so many seconds are dropped."""
    min_duration_off: float = 0.0
    """Then pauses shorter than so many seconds are filled."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < float("inf"):
                raise OptionError(f"{field.name}={value!r} must be a number of at least 0")
        for name in ("onset", "offset"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name}={getattr(self, name)!r} must be a probability between 0 and 1")


POSTPROCESSING: Mapping[str, PostProcessing] = {
    "none": PostProcessing(),
    "dihard3-v1": PostProcessing(0.64, 0.74, 0.06, 0.0, 0.1, 0.15),
    "callhome-v1": PostProcessing(0.53, 0.49, 0.23, 0.01, 0.42, 0.34),
    "dihard3-v2": PostProcessing(0.56, 1.0, 0.063, 0.002, 0.007, 0.151),
    "callhome-v2": PostProcessing(0.641, 0.561, 0.229, 0.079, 0.511, 0.296),
}
"""The published values, tuned on DIHARD 3 (development) and CALLHOME (part 1) for the v1 and v2 checkpoints."""


def choose(
    preset: str | None, replaced: Mapping[str, float | None], *, streaming: bool = True
) -> PostProcessing:
    """A preset ("none" when None) with the values that are not None put in place of its own.

    `dihard3` and `callhome` mean the version tuned for the kind of model: v2 for `streaming` ones, else v1.
    """
    name = preset or "none"
    if name in ("dihard3", "callhome"):
        name = f"{name}-{'v2' if streaming else 'v1'}"
    if name not in POSTPROCESSING:
        known = ", ".join(["dihard3", "callhome", *POSTPROCESSING])
        raise OptionError(f"preset={preset!r} is not known: use one of {known}")
    return replace(
        POSTPROCESSING[name], **{key: value for key, value in replaced.items() if value is not None}
    )


def segments(probabilities: np.ndarray, options: PostProcessing, frame_seconds: float = 0.08) -> np.ndarray:
    """The (start, end) seconds [M, 2], float32, in which one speaker of probabilities [T] speaks.

    A turn that lasts to the end ends one step of the grid before it, as in the reference.
    """
    fine = on_grid(probabilities, frame_seconds)
    found = _merged(_padded(speaking(fine, options), options))
    if len(found) and options.min_duration_on > 0:
        found = found[_length(found) >= np.float32(options.min_duration_on)]
    if len(found) and options.min_duration_off > 0:
        gaps = np.stack([found[:-1, 1], found[1:, 0]], 1)
        found = _merged(
            np.concatenate([found, gaps[~(_length(gaps) >= np.float32(options.min_duration_off))]])
        )
    return found


def on_grid(probabilities: np.ndarray, frame_seconds: float = 0.08) -> np.ndarray:
    """Probabilities [T] of frames as float32 on the grid [G]."""
    return np.repeat(np.asarray(probabilities, np.float32), round(frame_seconds / GRID))


def turns(
    probabilities: np.ndarray,
    options: PostProcessing,
    names: tuple[str, ...],
    *,
    frame_seconds: float,
    duration: float,
) -> tuple[Turn, ...]:
    """The turns of probabilities [T, N] in a recording of `duration` seconds, sorted by start."""
    found = []
    for speaker, name in enumerate(names):
        for start, end in segments(probabilities[:, speaker], options, frame_seconds).tolist():
            start, end = round(start, 3), round(min(end, duration), 3)
            if end <= start:
                continue
            sure = confidence(probabilities[:, speaker], start, end, frame_seconds)
            found.append(Turn(name, start, end, sure))
    return tuple(sorted(found, key=lambda turn: (turn.start, turn.end, turn.speaker)))


def confidence(
    probabilities: np.ndarray, start: float, end: float, frame_seconds: float, *, before: int = 0
) -> float:
    """The mean of a speaker's probabilities over the turn from second `start` to `end`, with four decimals.

    probabilities: [T] of the frames that are still held. before: how many frames came before them.
    """
    first = min(int(start / frame_seconds), before + len(probabilities) - 1)
    last = max(first + 1, round(end / frame_seconds))
    return round(float(probabilities[first - before : last - before].mean()), 4)


def as_options(options: PostProcessing) -> dict[str, float]:
    """The values by name."""
    return asdict(options)


def speaking(fine: np.ndarray, options: PostProcessing, before: bool = False) -> np.ndarray:
    """Whether the speaker speaks at each step [G], by a switch with two thresholds; `before` is its first state.

    A step sets the switch, or leaves it, or (with an offset above the onset) throws it over. So the state is what
    the last setting step said, thrown over as often as steps since then did.
    """
    above, below = fine > np.float32(options.onset), fine < np.float32(options.offset)
    sets = above != below
    thrown = np.cumsum(above & below)
    last = np.maximum.accumulate(np.where(sets, np.arange(1, len(fine) + 1), 0))
    said = np.concatenate([[before], above])[last]
    until = np.concatenate([[0], thrown])[last]
    return said ^ ((thrown - until) % 2 == 1)


def _padded(speaking: np.ndarray, options: PostProcessing) -> np.ndarray:
    edges = np.flatnonzero(np.diff(speaking.astype(np.int8), prepend=0))
    if len(edges) % 2:
        edges = np.append(edges, len(speaking) - 1)
    steps = edges.reshape(-1, 2) * GRID
    starts = np.maximum(0.0, steps[:, 0] - options.pad_onset)
    return np.stack([starts, steps[:, 1] + options.pad_offset], 1).astype(np.float32)


def _merged(found: np.ndarray) -> np.ndarray:
    """Neighbours that touch become one."""
    if len(found) < 2:
        return found
    found = found[np.argsort(found[:, 0], kind="stable")]
    touch = found[:-1, 1] >= found[1:, 0]
    return np.stack([found[np.append(True, ~touch), 0], found[np.append(~touch, True), 1]], 1)


def _length(found: np.ndarray) -> np.ndarray:
    return found[:, 1] - found[:, 0]
