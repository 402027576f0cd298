"""The fused joint and loss beside the loss of the joint's full output."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.loss import fused_transducer_loss, rnnt_loss, tdt_loss
from aronnax.collections.asr.transducer.prediction import PredictionConfig, PredictionNetwork

LENGTHS, TOKENS = torch.tensor([9, 4, 7, 1, 9]), torch.tensor([5, 3, 0, 2, 1])


def make(durations, dtype=torch.float64, dropout=0.0, activation="relu"):
    torch.manual_seed(1)
    joint = Joint(
        JointConfig(hidden=12, dropout=dropout, activation=activation), 10, 8, 6, len(durations)
    ).to(dtype)
    prediction = PredictionNetwork(PredictionConfig(hidden=8, dropout=0.0), 6).to(dtype)
    states = torch.randn(5, 9, 10, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 6, (5, 5))
    return joint, prediction, states, targets


def loss_and_gradients(loss, modules, states):
    parameters = [p for module in modules for p in module.parameters()] + [states]
    return loss.detach(), torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("durations", [(), (0, 1, 2, 4)])
@pytest.mark.parametrize("budget", [2**24, 200, 1])
@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", "mean", "sum"])
def test_fused_equals_unfused_in_value_and_gradient(durations, budget, reduction):
    joint, prediction, states, targets = make(durations, activation="tanh" if budget == 200 else "relu")
    options = {"fastemit": 0.01, "reduction": reduction}
    if durations:
        options |= {"durations": durations, "sigma": 0.05}
    plain = (tdt_loss if durations else rnnt_loss)(
        joint(states, prediction(targets)), targets, LENGTHS, TOKENS, **options
    )
    fused = fused_transducer_loss(
        joint, states, prediction(targets), targets, LENGTHS, TOKENS, budget=budget, **options
    )
    value, gradients = loss_and_gradients(fused * 3, (joint, prediction), states)
    true_value, true_gradients = loss_and_gradients(plain * 3, (joint, prediction), states)
    torch.testing.assert_close(value, true_value)
    for ours, truth in zip(gradients, true_gradients):
        torch.testing.assert_close(ours, truth, atol=1e-9, rtol=1e-9)


def test_padding_and_neighbours_do_not_change_a_row():
    joint, prediction, states, targets = make((0, 1, 2), torch.float32)
    garbage = targets.masked_fill(torch.arange(5) >= TOKENS[:, None], -7)
    noise = torch.where(torch.arange(9)[:, None] < LENGTHS[:, None, None], states, 1e3)
    together = fused_transducer_loss(
        joint, noise, prediction(garbage), garbage, LENGTHS, TOKENS, durations=(0, 1, 2), reduction="none"
    )
    for row in range(5):
        t, u = int(LENGTHS[row]), int(TOKENS[row])
        alone = fused_transducer_loss(
            joint,
            states[row : row + 1, :t],
            prediction(targets[row : row + 1, :u]),
            targets[row : row + 1, :u],
            LENGTHS[row : row + 1],
            TOKENS[row : row + 1],
            durations=(0, 1, 2),
            reduction="none",
        )
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-5)


def test_dropout_is_the_same_when_scores_are_computed_twice():
    joint, prediction, states, targets = make((), dropout=0.4)
    results = []
    for budget in (2**24, 2**24):
        torch.manual_seed(3)
        loss = fused_transducer_loss(
            joint, states[:1], prediction(targets[:1]), targets[:1], LENGTHS[:1], TOKENS[:1], budget=budget
        )
        results.append(loss_and_gradients(loss, (joint, prediction), states))
    assert results[0][0] == results[1][0]
    torch.manual_seed(3)
    nudged = states.detach().clone()
    step = torch.randn_like(nudged) * 1e-6
    values = []
    for sign in (1, -1):
        torch.manual_seed(3)
        values.append(
            fused_transducer_loss(
                joint,
                (nudged + sign * step)[:1],
                prediction(targets[:1]),
                targets[:1],
                LENGTHS[:1],
                TOKENS[:1],
                budget=30,
            )
        )
    torch.manual_seed(3)
    loss = fused_transducer_loss(
        joint, states[:1], prediction(targets[:1]), targets[:1], LENGTHS[:1], TOKENS[:1], budget=30
    )
    (gradient,) = torch.autograd.grad(loss, states)
    torch.testing.assert_close((values[0] - values[1]) / 2, (gradient * step).sum(), rtol=1e-4, atol=1e-12)


def test_omega_always_is_the_rnnt_loss_of_the_token_outputs():
    joint, prediction, states, targets = make((0, 1, 2))
    scores = joint(states, prediction(targets))
    truth = rnnt_loss(scores[..., :-3], targets, LENGTHS, TOKENS)
    options = {"durations": (0, 1, 2), "sigma": 0.1, "omega": 1.0}
    torch.testing.assert_close(tdt_loss(scores, targets, LENGTHS, TOKENS, **options), truth)
    fused = fused_transducer_loss(joint, states, prediction(targets), targets, LENGTHS, TOKENS, **options)
    torch.testing.assert_close(fused, truth)


def test_full_scores_are_never_held(monkeypatch):
    from aronnax.collections.asr.transducer import fused

    joint, prediction, states, targets = make(())
    largest = []
    original = fused.cell_scores
    monkeypatch.setattr(fused, "cell_scores", lambda x, n: largest.append(x.numel()) or original(x, n))
    fused_transducer_loss(joint, states, prediction(targets), targets, LENGTHS, TOKENS, budget=200).backward()
    assert max(largest) <= 200
    assert len(largest) > 5


def test_a_row_without_any_alignment_has_no_gradient_and_does_not_poison_the_batch():
    joint, prediction, states, targets = make((1, 2))
    loss = fused_transducer_loss(
        joint, states, prediction(targets), targets, LENGTHS, TOKENS, durations=(1, 2)
    )
    (gradient,) = torch.autograd.grad(loss, states)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert (gradient[3] == 0).all(), "two tokens cannot fit into one frame when every token takes one"
