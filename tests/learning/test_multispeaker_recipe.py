"""The recipe of multi-speaker recognition: stretches of speech are shared out by what voices sound like."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 8000


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's own modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES / "asr" / "digits"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "diarization" / "multispeaker"))
    yield
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _say(voice: np.random.Generator, draw: np.random.Generator) -> np.ndarray:
    """0.4 s of noise through the voice's resonances, a little off them each time."""
    hertz, width = voice.uniform([250, 900, 1900], [800, 1800, 3400]), voice.uniform(60, 300, 3)
    sound = draw.standard_normal(int(0.4 * RATE))
    for centre, spread in zip(hertz * draw.normal(1, 0.02, 3), width):
        radius = np.exp(-np.pi * spread / RATE)
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], sound)
    return (0.1 * sound / sound.std()).astype(np.float32)


def _voice(number: int, draw: np.random.Generator, count: int = 8) -> list[np.ndarray]:
    return [_say(np.random.default_rng(number), draw) for _ in range(count)]


def test_strangers_are_told_apart_where_the_diarizer_hears_only_one(recipe: None) -> None:
    from regroup import VoiceSpace, regroup
    from voices import Voice

    draw = np.random.default_rng(0)
    known = [Voice(str(n), [(sound, "one") for sound in _voice(n, draw)]) for n in range(60)]
    space = VoiceSpace.of(known)
    first, second = _voice(100, draw), _voice(101, draw)
    pause = np.zeros(int(0.16 * RATE), np.float32)
    order = [0, 0, 1, 0, 1, 1, 0, 1]
    said = [(first, second)[who][place] for place, who in enumerate(order)]
    signal = np.concatenate([part for sound in said for part in (sound, pause)])
    frames = len(signal) // 640
    speech = (np.arange(frames) % 7) < 5
    probabilities = np.stack([np.where(speech, 0.8, 0.02), np.full(frames, 0.1)], 1)
    found = regroup(signal, probabilities, space)
    assert [turn.speaker for turn in found.turns] == [str(who) for who in order]
    np.testing.assert_allclose([turn.start for turn in found.turns], 0.56 * np.arange(len(order)), atol=1e-9)


def test_sessions_with_little_or_nothing_in_them_stay_as_they_are(recipe: None) -> None:
    from regroup import VoiceSpace, regroup

    space = VoiceSpace(np.zeros(47), np.eye(47)[:, :16], np.ones(16), 0.8)
    silent = np.zeros(RATE, np.float32)
    assert regroup(silent, np.full((12, 2), 0.1), space).turns == ()
    sure = np.stack([np.full(12, 0.9), np.zeros(12)], 1)
    (turn,) = regroup(silent, sure, space).turns
    assert (turn.start, turn.end) == (0.0, pytest.approx(0.96))
    both = np.full((12, 2), 0.9)
    assert {turn.speaker for turn in regroup(silent + 0.1, both, space).turns} == {"0", "1"}
