"""Turns told as they end are the turns found in all frames together."""

from __future__ import annotations

import numpy as np
import pytest

from aronnax.collections.common.results.diarization import Turn
from aronnax.collections.diarization import postprocessing
from aronnax.collections.diarization.live_turns import LiveTurns
from aronnax.collections.diarization.postprocessing import POSTPROCESSING, PostProcessing

NAMES = ("a", "b")


def speech(seed: int, frames: int = 600) -> np.ndarray:
    """Probabilities [T, 2] that stay on either side of the thresholds for some frames and shake about them."""
    random = np.random.default_rng(seed)
    slow = np.repeat(random.uniform(0, 1, (frames // 5 + 1, 2)), 5, axis=0)[:frames]
    return np.clip(slow + random.normal(0, 0.15, (frames, 2)), 0, 1).astype(np.float32)


def told(turns: list[Turn] | tuple[Turn, ...]) -> list[tuple[float, float, str, float | None]]:
    return sorted((turn.start, turn.end, turn.speaker, turn.confidence) for turn in turns)


@pytest.mark.parametrize("preset", [*POSTPROCESSING, "long pads"])
@pytest.mark.parametrize("seed", range(5))
def test_pushes_of_any_size_give_the_turns_of_the_whole(preset: str, seed: int) -> None:
    options = POSTPROCESSING.get(preset, PostProcessing(0.6, 0.4, 0.5, 0.3, 0.2, 0.7))
    probabilities = speech(seed)
    duration = len(probabilities) * 0.08 - 0.03
    whole = postprocessing.turns(probabilities, options, NAMES, frame_seconds=0.08, duration=duration)
    assert whole
    random = np.random.default_rng(seed + 100)
    live = LiveTurns(NAMES, options)
    found, first = [], 0
    while first < len(probabilities):
        last = first + int(random.integers(0, 20))
        found += live.push(probabilities[first:last])
        first = last
    early = len(found)
    found += live.finish(duration)
    assert told(found) == told(whole)
    assert early >= len(found) - 4


def test_a_turn_is_told_once_its_padding_and_the_shortest_pause_have_passed() -> None:
    live = LiveTurns(("a",), PostProcessing(pad_offset=0.1, min_duration_off=0.3))
    assert live.push(np.array([[1.0]] * 5 + [[0.0]] * 4)) == []
    assert live.push(np.array([[0.0]])) == [Turn("a", 0.0, 0.5, 0.8333)]


def test_speech_to_the_end_is_told_at_the_end_and_ends_there() -> None:
    live = LiveTurns(("a",), PostProcessing())
    assert live.push(np.ones((3, 1))) == []
    assert live.finish(0.2) == [Turn("a", 0.0, 0.2, 1.0)]


def test_frames_of_turns_that_are_over_are_not_kept() -> None:
    live = LiveTurns(NAMES, PostProcessing(pad_onset=0.3, min_duration_off=0.5))
    for _ in range(200):
        live.push(np.array([[1.0, 0.0]] * 5 + [[0.0, 0.0]] * 15))
    assert len(live._frames) < 50
