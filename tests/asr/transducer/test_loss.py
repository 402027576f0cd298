"""The losses against every alignment, written out."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from aronnax.collections.asr.transducer.loss import rnnt_loss, tdt_loss


def every_path(logits, targets, durations, sigma=0.0):
    """Log-likelihood of one row by enumeration of all its alignments; differentiable."""
    frames, tokens, n = logits.shape[0], len(targets), len(durations)
    labels = torch.log_softmax(logits[..., : logits.shape[-1] - n], -1) - (sigma if n else 0.0)
    times = torch.log_softmax(logits[..., -n:], -1) if n else None
    blank = labels.shape[-1] - 1

    @lru_cache(None)
    def paths(t, u):
        if t == frames:
            return [0.0] if u == tokens else []
        found = []
        steps = list(enumerate(durations)) if n else [(None, None)]
        for k, d in steps:
            score = times[t, u, k] if n else 0.0
            forward = d if n else 1
            if forward > 0 and t + forward <= frames:
                found += [labels[t, u, blank] + score + rest for rest in paths(t + forward, u)]
            stay = d if n else 0
            if u < tokens and t + stay < frames:
                found += [labels[t, u, targets[u]] + score + rest for rest in paths(t + stay, u + 1)]
        return found

    return torch.logsumexp(torch.stack(paths(0, 0)), 0)


CASES = [
    ((), 0.0),
    ((0, 1), 0.0),
    ((0, 1, 2, 3, 4), 0.05),
    ((1, 2), 0.0),
    ((0, 1, 2, 4), 0.3),
    ((2, 1, 0), 0.1),
]


@pytest.mark.parametrize(("durations", "sigma"), CASES)
def test_losses_and_gradients_equal_every_alignment_written_out(durations, sigma):
    torch.manual_seed(len(durations))
    lengths, token_counts = torch.tensor([4, 5, 2, 5]), torch.tensor([3, 2, 1, 0])
    logits = torch.randn(4, 5, 4, 6 + len(durations), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 5, (4, 3))
    if durations:
        ours = tdt_loss(
            logits, targets, lengths, token_counts, durations=durations, sigma=sigma, reduction="none"
        )
    else:
        ours = rnnt_loss(logits, targets, lengths, token_counts, reduction="none")
    truth = torch.stack(
        [
            -every_path(
                logits[b, : lengths[b]], tuple(targets[b, : token_counts[b]].tolist()), durations, sigma
            )
            for b in range(4)
        ]
    )
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)
    scale = torch.tensor([1.0, 2.0, -0.5, 3.0], dtype=torch.float64)
    (ours_grad,) = torch.autograd.grad((ours * scale).sum(), logits)
    (true_grad,) = torch.autograd.grad((truth * scale).sum(), logits)
    torch.testing.assert_close(ours_grad, true_grad, atol=1e-10, rtol=1e-10)
