"""The bundled diarizer on voices it has not heard: whole at once, and as a stream."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aronnax
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel

BUNDLED = Path(aronnax.__file__).parent / "bundled" / "diarizer-small"
RECIPE = Path(__file__).parents[2] / "examples" / "diarization" / "small"
pytestmark = pytest.mark.skipif(not BUNDLED.is_dir(), reason="the bundled diarizer is not in this tree")


@pytest.fixture(scope="module")
def model() -> SortformerModel:
    loaded = aronnax.load("diarizer-small", device="cpu")
    assert isinstance(loaded, SortformerModel)
    return loaded


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The evaluation script of the recipe, whose modules lie beside it."""
    pytest.importorskip("scipy")
    sys.path.insert(0, str(RECIPE))
    try:
        # Another recipe's modules have the same names.
        for name in ("voices", "sessions", "evaluate"):
            sys.modules.pop(name, None)
        import evaluate

        yield evaluate
    finally:
        sys.path.remove(str(RECIPE))
        for name in ("voices", "sessions", "evaluate"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def strangers(recipe: Any) -> list[Any]:
    if "ARONNAX_DATA" not in os.environ:
        pytest.skip("ARONNAX_DATA does not name the folder that holds librispeech_speakers")
    _, clips, _ = recipe.split(
        recipe.read_speakers(Path(os.environ["ARONNAX_DATA"]) / "librispeech_speakers")
    )
    return clips[recipe.CALIBRATION_CLIPS :]


def test_it_is_small_and_can_be_streamed(model: SortformerModel) -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 8e6
    assert model.sample_rate == 16000
    assert model.max_speakers == 4
    assert model.config.streaming
    stream = model.stream(1.04)
    noise = 0.01 * torch.randn(3 * 16000, generator=torch.Generator().manual_seed(0))
    heard = torch.cat([stream.push(noise[:20000]), stream.push(noise[20000:]), stream.finish()])
    assert heard.shape == (38, 4)


def test_silence_has_no_speaker(model: SortformerModel) -> None:
    assert model.diarize((np.zeros(10 * 16000, np.float32), 16000)).turns == ()


@pytest.mark.parametrize(("speakers", "der", "first"), [(2, 20.0, 90.0), (3, 30.0, 90.0), (4, 30.0, 90.0)])
def test_sessions_of_strangers(
    model: SortformerModel, recipe: Any, strangers: list[Any], speakers: int, der: float, first: float
) -> None:
    plan = replace(SimulationConfig(seconds=30.0), speakers=(speakers,))
    found = recipe.judge(model, strangers, recipe.Surroundings(), plan, recipe.CLEAN, 12).rates()
    assert found["der"] < der
    assert found["first_right"] >= first


def test_a_stream_hears_two_strangers_too(model: SortformerModel, recipe: Any, strangers: list[Any]) -> None:
    plan = SimulationConfig(seconds=30.0, speakers=(2,))
    errors = recipe.Errors()
    for number in range(4):
        rng = random.Random(f"stream {number}")
        made = recipe.session(strangers, recipe.Surroundings(), plan, recipe.CLEAN, rng)
        turns = [(turn.speaker, turn.at / 16000, turn.end / 16000) for turn in made.turns]
        reference = recipe.grid(turns, 30.0, made.names)
        found = model.diarize((made.signal, 16000), latency=10.0)
        errors.add(reference, recipe.heard(found, 30.0))
    assert errors.rates()["der"] < 35.0
