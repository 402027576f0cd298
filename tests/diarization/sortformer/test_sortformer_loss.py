from __future__ import annotations

from itertools import permutations

import pytest
import torch

from aronnax.collections.diarization.sortformer.loss import (
    activity_loss,
    diarization_losses,
    first_active,
    matched_targets,
    sorted_targets,
)
from aronnax.core.errors import OptionError


def case(
    seed: int, speakers: int = 4, batch: int = 8, frames: int = 40
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels whose speakers begin in different frames, probabilities and lengths."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(batch, frames, speakers)
    lengths = torch.randint(frames // 2, frames + 1, (batch,), generator=generator)
    for row in range(batch):
        starts = torch.randperm(frames // 2, generator=generator)[:speakers].tolist()
        for speaker, start in enumerate(starts):
            labels[row, start : start + int(torch.randint(1, 12, (), generator=generator)), speaker] = 1
        labels[row, int(lengths[row]) :] = 0
    return labels, torch.rand(labels.shape, generator=generator) * 0.98 + 0.01, lengths


@pytest.mark.parametrize("speakers", [1, 2, 4, 6, 8])
def test_the_sort_loss_does_not_depend_on_how_speakers_are_labelled(speakers: int) -> None:
    for seed in range(20):
        labels, probabilities, lengths = case(seed, speakers)
        order = torch.randperm(speakers, generator=torch.Generator().manual_seed(seed))
        losses = [
            activity_loss(probabilities, sorted_targets(some, probabilities), lengths)
            for some in (labels, labels[:, :, order])
        ]
        assert abs(losses[0] - losses[1]) < 1e-7
        arrivals = first_active(sorted_targets(labels, probabilities))
        assert (arrivals.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("speakers", [2, 4, 6])
def test_the_sort_loss_is_never_below_the_true_permutation_invariant_loss(speakers: int) -> None:
    for seed in range(50):
        labels, probabilities, lengths = case(seed, speakers, batch=1)
        sort = activity_loss(probabilities, sorted_targets(labels, probabilities), lengths)
        true = activity_loss(probabilities, matched_targets(labels, probabilities, lengths, "cost"), lengths)
        match = activity_loss(probabilities, matched_targets(labels, probabilities, lengths), lengths)
        assert true <= sort + 1e-6
        assert true <= match + 1e-6
        if speakers < 5:
            every = [
                activity_loss(probabilities, labels[:, :, list(order)], lengths)
                for order in permutations(range(speakers))
            ]
            assert abs(min(every) - true) < 1e-6


def test_the_assignment_solver_finds_what_trying_all_permutations_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aronnax.collections.diarization.sortformer import loss

    for seed in range(20):
        labels, probabilities, lengths = case(seed, 4)
        labels[:, :3, 0] = labels[:, :3, 2] = 1  # a tie
        tried = [sorted_targets(labels, probabilities), matched_targets(labels, probabilities, lengths)]
        monkeypatch.setattr(loss, "ENUMERATED", 0)
        solved = [sorted_targets(labels, probabilities), matched_targets(labels, probabilities, lengths)]
        monkeypatch.undo()
        for a, b in zip(tried, solved):
            assert torch.equal(a, b)


def test_absent_speakers_come_last_and_ties_go_to_the_better_match() -> None:
    labels = torch.zeros(1, 6, 3)
    labels[0, 2:4, 1] = labels[0, 2:6, 2] = 1
    probabilities = torch.full((1, 6, 3), 0.1)
    probabilities[0, 2:6, 0] = probabilities[0, 2:4, 1] = 0.9
    targets = sorted_targets(labels, probabilities)
    assert torch.equal(targets[0, :, 0], labels[0, :, 2])
    assert torch.equal(targets[0, :, 1], labels[0, :, 1])
    assert not targets[0, :, 2].any()


def test_what_lies_beyond_a_row_takes_no_part() -> None:
    labels, probabilities, lengths = case(0)
    garbage = torch.arange(40)[None, :, None] >= lengths[:, None, None]
    noisy = diarization_losses(probabilities, torch.where(garbage, 1.0, labels), lengths)
    clean = diarization_losses(torch.where(garbage, 0.77, probabilities), labels, lengths)
    assert noisy.loss == clean.loss
    longer = torch.nn.functional.pad(labels, (0, 0, 0, 5), value=1.0)
    assert diarization_losses(probabilities, longer, lengths + 5 * (lengths == 40)).loss == clean.loss


def test_the_weights_are_scaled_to_sum_to_one() -> None:
    labels, probabilities, lengths = case(1)
    found = diarization_losses(probabilities, labels, lengths, sort_weight=3.0, pil_weight=1.0)
    assert found.loss == pytest.approx(float(0.75 * found.sort + 0.25 * found.pil))
    with pytest.raises(OptionError, match="both 0"):
        diarization_losses(probabilities, labels, lengths, sort_weight=0.0, pil_weight=0.0)
    with pytest.raises(OptionError, match="criterion"):
        matched_targets(labels, probabilities, lengths, "best")  # type: ignore[arg-type]


def test_the_gradient_of_the_hybrid_loss_is_right() -> None:
    labels, probabilities, lengths = case(2, speakers=3, batch=2, frames=12)
    probabilities = probabilities.double().requires_grad_()
    torch.autograd.gradcheck(
        lambda p: diarization_losses(p, labels.double(), lengths).loss, (probabilities,), atol=1e-7
    )
