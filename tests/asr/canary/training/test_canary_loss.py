from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.asr.canary.loss import smoothed_cross_entropy, targets

FIXTURE = Path(__file__).resolve().parents[3] / "parity" / "fixtures" / "aed_loss.npz"


@pytest.fixture(scope="module")
def nemo() -> dict[str, torch.Tensor]:
    with np.load(FIXTURE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("counted", ["all", "answer"])
def test_loss_and_gradient_are_those_of_nemo(nemo, smoothing, counted) -> None:
    given = targets(nemo["tokens"], nemo["lengths"], nemo["prompt_lengths"], mask_prompt=counted == "answer")
    log_probs = nemo["log_probs"].clone().requires_grad_()
    loss = smoothed_cross_entropy(log_probs, given.labels, given.counts, smoothing)
    loss.backward()
    assert loss.item() == pytest.approx(float(nemo[f"{counted}_{smoothing}/loss"]), abs=1e-6)
    torch.testing.assert_close(log_probs.grad, nemo[f"{counted}_{smoothing}/gradient"], atol=1e-7, rtol=1e-5)


def test_labels_are_the_inputs_one_later_and_padding_never_counts() -> None:
    tokens = torch.tensor([[7, 4, 20, 21, 3], [7, 4, 30, 3, 2]])
    given = targets(tokens, torch.tensor([5, 4]), torch.tensor([2, 2]))
    assert given.inputs.tolist() == [[7, 4, 20, 21], [7, 4, 30, 3]]
    assert given.labels.tolist() == [[4, 20, 21, 3], [4, 30, 3, 2]]
    assert given.counts.tolist() == [[True] * 4, [True, True, True, False]]


def test_the_prompt_mask_leaves_exactly_the_answer() -> None:
    tokens = torch.tensor([[7, 4, 20, 21, 3], [7, 3, 2, 2, 2]])
    given = targets(tokens, torch.tensor([5, 2]), torch.tensor([2, 1]), mask_prompt=True)
    assert given.labels[given.counts].tolist() == [20, 21, 3, 3]


def test_nothing_that_counts_gives_zero_and_infinite_padding_does_no_harm() -> None:
    log_probs = torch.full((1, 2, 5), float("-inf"), requires_grad=True)
    labels = torch.zeros(1, 2, dtype=torch.int64)
    loss = smoothed_cross_entropy(log_probs, labels, torch.zeros(1, 2, dtype=torch.bool), 0.1)
    assert loss.item() == 0.0
