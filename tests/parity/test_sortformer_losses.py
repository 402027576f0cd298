"""Targets, losses and turns equal NeMo's: targets and turns exactly, losses to 1e-6.

The truth is made by tests/parity/make/sortformer_losses.py.
"""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aronnax.collections.diarization.postprocessing import POSTPROCESSING, segments
from aronnax.collections.diarization.sortformer.loss import activity_loss, matched_targets, sorted_targets

FIXTURE = Path(__file__).parent / "fixtures" / "sortformer" / "losses.npz"
MAKE = Path(__file__).parent / "make" / "sortformer_losses.py"


@cache
def made() -> dict[str, Any]:
    return runpy.run_path(str(MAKE))


def unpacked(bits: np.ndarray, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(bits)[: shape.numel()].reshape(shape).astype(np.float32))


@pytest.mark.parametrize("kind", ["sort", "pil"])
def test_the_targets_of_a_thousand_cases_are_those_of_nemo_and_the_losses_too(kind: str) -> None:
    labels, probabilities, lengths = made()["cases"]()
    truth = np.load(FIXTURE)
    if kind == "sort":
        targets = sorted_targets(labels, probabilities)
    else:
        targets = matched_targets(labels, probabilities, lengths)
    assert torch.equal(targets, unpacked(truth[kind], labels.shape))
    together = activity_loss(probabilities, targets, lengths)
    assert abs(float(together) - float(truth[f"{kind}_loss_together"])) < 1e-6
    alone = [
        float(activity_loss(p[None], t[None], n[None])) for p, t, n in zip(probabilities, targets, lengths)
    ]
    np.testing.assert_allclose(alone, truth[f"{kind}_loss"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", POSTPROCESSING)
def test_turns_of_random_probabilities_are_exactly_those_of_nemo(preset: str) -> None:
    assert made()["PRESETS"][preset] == tuple(vars(POSTPROCESSING[preset]).values())
    truth = np.load(FIXTURE)[f"turns-{preset}"]
    for number, track in enumerate(made()["tracks"]().numpy()):
        theirs = truth[truth[:, 0] == number][:, 1:]
        ours = segments(track, POSTPROCESSING[preset])
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs), number
