"""Who said which word: the words of a transcript and the turns of a diarization of the same recording.

The rule, word by word, in seconds:

1. A speaker is a candidate if one of their turns overlaps the word. Of several, the one with the largest probability
   mass wins: their probability integrated over the word's whole span. Where the diarization has turns only, as when
   read from RTTM, the mass is the overlap with the turns.
2. A word outside of every turn goes to the speaker of the turn nearest in time, if no further than `limit`.
3. Otherwise nobody says it: `Word.speaker` is None.

Equal masses or distances: who said the word before, if among them, else who arrived first.
`W` words, `N` speakers, `T` frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from aronnax.collections.asr.words import segments_of
from aronnax.collections.common.results import Diarization, Transcript, Turn, Word
from aronnax.core.errors import OptionError

LIMIT = 1.0
"""Seconds between a word and the nearest turn beyond which the word has no speaker."""

BEYOND = 1.0
"""Seconds by which turns may end behind the transcript before that is noted."""

_SHORTEST = 0.01
_SAME = 1e-9


def join(
    transcript: Transcript, diarization: Diarization, *, limit: float = LIMIT, numbered: bool = True
) -> Transcript:
    """The transcript with the speaker of every word; segments end where the speaker changes, too.

    limit: seconds between a word and the nearest turn that still counts. numbered: speakers are called SPEAKER 1,
    SPEAKER 2, ... in the order of their first words; False keeps the diarization's names.

    Raises OptionError for a transcript that has a text but no words with times, or a limit below 0.

    >>> words = (Word("hello", 0.1, 0.4), Word("hi", 1.1, 1.3))
    >>> turns = (Turn("B", 0.0, 0.5), Turn("A", 1.0, 1.5))
    >>> print(join(Transcript("hello hi", 2.0, words), Diarization(turns, 2.0)).to_txt(), end="")
    SPEAKER 1: hello
    SPEAKER 2: hi
    """
    if not 0 <= limit < float("inf"):
        raise OptionError(f"limit={limit!r} must be a number of seconds of at least 0")
    if transcript.text.strip() and not transcript.words:
        raise OptionError(
            "the transcript has no words with times, so nobody can be found to have said them:"
            " transcribe with timestamps=True"
        )
    chosen = _choose(transcript.words, diarization, limit)
    called = dict(enumerate(diarization.speakers))
    if numbered:
        arrived = dict.fromkeys(column for column in chosen if column is not None)
        called = {column: f"SPEAKER {number}" for number, column in enumerate(arrived, start=1)}
    words = [
        replace(word, speaker=None if column is None else called[column])
        for word, column in zip(transcript.words, chosen)
    ]
    segments = [
        segment
        for _, run in groupby(words, key=lambda word: word.speaker)
        for segment in segments_of(list(run))
    ]
    lost = chosen.count(None)
    notes = [f"{lost} of {len(words)} words lie more than {limit:g} s from any turn"] if lost else []
    last = max((turn.end for turn in diarization.turns), default=0.0)
    if last > transcript.duration + BEYOND:
        notes.append(
            f"turns end at {last:.1f} s and the transcript at {transcript.duration:.1f} s:"
            " is the diarization that of another recording?"
        )
    return replace(
        transcript, words=tuple(words), segments=tuple(segments), notes=(*transcript.notes, *notes)
    )


def _choose(words: Sequence[Word], diarization: Diarization, limit: float) -> list[int | None]:
    """The speaker of each word, as a place in `diarization.speakers`."""
    if not words or not diarization.turns:
        return [None] * len(words)
    starts = np.array([word.start for word in words])
    ends = np.maximum(np.array([word.end for word in words]), starts + _SHORTEST)
    overlap, gap = _against_turns(starts, ends, diarization)
    mass = _masses(starts, ends, diarization, overlap)
    chosen: list[int | None] = []
    before: int | None = None
    for row in range(len(words)):
        inside = overlap[row] > _SAME
        # The smaller, the better: minus the mass of those who are candidates, else the distance.
        costs = np.where(inside, -mass[row], np.inf) if inside.any() else gap[row]
        if not inside.any() and costs.min() > limit:
            chosen.append(None)
            continue
        best = np.flatnonzero(costs <= costs.min() + _SAME).tolist()
        before = before if before in best else int(best[0])
        chosen.append(before)
    return chosen


def _against_turns(
    starts: np.ndarray, ends: np.ndarray, diarization: Diarization
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [W, N] of each word inside each speaker's turns, and seconds to the nearest of them."""
    overlaps, gaps = [], []
    for speaker in diarization.speakers:
        spans = np.array(_spans([turn for turn in diarization.turns if turn.speaker == speaker]))
        covered = np.concatenate([[0.0], np.cumsum(spans[:, 1] - spans[:, 0])])
        edges, seconds = spans.ravel(), np.repeat(covered, 2)[1:-1]
        overlaps.append(np.interp(ends, edges, seconds) - np.interp(starts, edges, seconds))
        following = np.searchsorted(spans[:, 0], starts)
        later = np.append(spans[:, 0], np.inf)[following] - ends
        earlier = starts - np.append(-np.inf, spans[:, 1])[following]
        gaps.append(np.maximum(np.minimum(later, earlier), 0.0))
    return np.stack(overlaps, 1), np.stack(gaps, 1)


def _spans(turns: Sequence[Turn]) -> list[tuple[float, float]]:
    """The stretches that a speaker's turns cover, in order; those that touch are one."""
    spans: list[tuple[float, float]] = []
    for turn in sorted(turns, key=lambda turn: turn.start):
        if spans and turn.start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], turn.end)
        else:
            spans.append((turn.start, turn.end))
    return spans


def _masses(
    starts: np.ndarray, ends: np.ndarray, diarization: Diarization, overlap: np.ndarray
) -> np.ndarray:
    """Probability integrated over each word's span [W, N]; the overlap for speakers without probabilities."""
    found = overlap.copy()
    if diarization.probabilities is None or diarization.frame_seconds is None:
        return found
    frames = len(diarization.probabilities)
    edges = np.arange(frames + 1) * diarization.frame_seconds
    for column, speaker in enumerate(diarization.speakers):
        if speaker not in diarization.names:
            continue
        row = diarization.probabilities[:, diarization.names.index(speaker)].astype(np.float64)
        sums = np.concatenate([[0.0], np.cumsum(row)]) * diarization.frame_seconds
        found[:, column] = np.interp(ends, edges, sums) - np.interp(starts, edges, sums)
    return found
