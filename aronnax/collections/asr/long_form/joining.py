"""One hypothesis from those of overlapping pieces, so that no word is lost or said twice.

Frames count from the start of the recording (or of the stretch that was cut) in every hypothesis here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aronnax.collections.asr.hypothesis import Hypothesis

TOLERANCE = 13
"""Frames by which the times of one token in two pieces may differ: a second at 80 ms, what overlaps."""


@dataclass(frozen=True)
class Part:
    """What one piece gave, and the frames [first, last) of it that are the piece's own."""

    hypothesis: Hypothesis
    first: int
    last: int


def joined(pieces: Sequence[Part]) -> Hypothesis:
    """The pieces' hypotheses in one.

    Two that overlap meet in the middle of the longest row of tokens that both have near the border; where they
    have none in common, each gives the tokens that start on its own side.
    """
    whole = Hypothesis()
    for index, piece in enumerate(pieces):
        following = piece.hypothesis
        skip = 0
        if index > 0 and following.tokens:
            border = piece.first
            keep, skip = _meeting(whole, following, border, overlapping=following.frames[0] < border)
            _cut(whole, keep)
        _extend(whole, following, skip)
    return whole


def _meeting(left: Hypothesis, right: Hypothesis, border: int, *, overlapping: bool) -> tuple[int, int]:
    """How many tokens the left one keeps, and how many of the right one are left out."""
    late = next((i for i, frame in enumerate(left.frames) if frame >= border - TOLERANCE), len(left.frames))
    crossing = any(frame >= border for frame in left.frames[late:])
    if not overlapping and not crossing:
        return len(left.tokens), 0
    early = sum(frame < border + TOLERANCE for frame in right.frames)
    a, b, length = _longest_common_run(left, right, late, early)
    if length == 0:
        keep = next(
            (i for i, frame in enumerate(left.frames) if i >= late and frame >= border), len(left.frames)
        )
        return keep, sum(frame < border for frame in right.frames)
    half = (length + 1) // 2
    return a + half, b + half


def _longest_common_run(left: Hypothesis, right: Hypothesis, late: int, early: int) -> tuple[int, int, int]:
    """Start in `left`, start in `right` and length of the longest run of equal tokens at like times."""
    best = (late, 0, 0)
    runs = [0] * (early + 1)
    for i in range(late, len(left.tokens)):
        for j in range(early - 1, -1, -1):
            near = abs(left.frames[i] - right.frames[j]) <= TOLERANCE
            runs[j + 1] = runs[j] + 1 if near and left.tokens[i] == right.tokens[j] else 0
            if runs[j + 1] > best[2]:
                best = (i - runs[j + 1] + 1, j - runs[j + 1] + 1, runs[j + 1])
    return best


def _cut(whole: Hypothesis, keep: int) -> None:
    for values in (whole.tokens, whole.frames, whole.durations, whole.confidences, whole.log_probs):
        del values[keep:]


def _extend(whole: Hypothesis, following: Hypothesis, skip: int) -> None:
    whole.tokens.extend(following.tokens[skip:])
    whole.frames.extend(following.frames[skip:])
    whole.durations.extend(following.durations[skip:])
    whole.confidences.extend(following.confidences[skip:])
    whole.log_probs.extend(following.log_probs[skip:])
    whole.score += following.score
