"""Cross-entropy of answers: only positions that are learned reach the vocabulary, a few at a time.

Legend: B rows, U positions, D width, V vocabulary, N learned positions of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a position that is not learned."""
CHUNK = 1024
"""Positions whose scores exist at the same time."""


def answer_cross_entropy(
    hidden: Tensor,
    labels: Tensor,
    logits: Callable[[Tensor], Tensor],
    *,
    chunk: int = CHUNK,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, Tensor]:
    """The loss of hidden states [B, U, D] and how many positions were learned.

    `labels` [B, U] are shifted already: that of a position is the token that follows it, -100 where nothing is
    learned. `logits` turns [N, D] into [N, V]. Scores exist for `chunk` positions at a time, in the forward pass and
    again in the backward pass, so that memory does not grow with B, U times V. Scores are compared in float32 at
    least. Without a learned position the loss is 0, with zero gradients.
    """
    learned = labels != IGNORED
    count = learned.sum()
    states, targets = hidden[learned], labels[learned]
    if not len(targets):
        return hidden.sum() * 0.0, count
    parts = [
        cast(Tensor, checkpoint(_summed, logits, some, wanted, use_reentrant=False))
        for some, wanted in zip(states.split(chunk), targets.split(chunk))
    ]
    total = torch.stack(parts).sum()
    return (total / count if reduction == "mean" else total), count


def _summed(logits: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor) -> Tensor:
    scores = logits(states)
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    return functional.cross_entropy(scores, targets, reduction="sum")
