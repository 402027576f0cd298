"""The loss of a prompted decoder: cross-entropy of each next token, with smoothed labels, padding left out.

Equal to NeMo's SmoothedCrossEntropyLoss. Shapes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aronnax.collections.common.nn.masks import valid_frames

_NOTHING = 1e-6
"""Keeps a batch without any target from dividing by zero; NeMo adds the same."""


class Targets(NamedTuple):
    """What a decoder is given and what it has to say, shifted by one."""

    inputs: Tensor
    """Tokens without the last place, int64 [B, U - 1]."""
    labels: Tensor
    """The token that follows each of them, int64 [B, U - 1]."""
    counts: Tensor
    """Which labels count, bool [B, U - 1]."""


def targets(tokens: Tensor, lengths: Tensor, prompt_lengths: Tensor, *, mask_prompt: bool = False) -> Targets:
    """Teacher forcing of tokens [B, U] with lengths [B]; the first `prompt_lengths` [B] of a row are its prompt.

    Without `mask_prompt` the prompt's own tokens are learned too, after its first one, as the published models did.
    """
    places = tokens.shape[1] - 1
    counts = valid_frames(lengths - 1, places)
    if mask_prompt:
        counts = counts & ~valid_frames((prompt_lengths - 1).clamp(min=0), places)
    return Targets(tokens[:, :-1], tokens[:, 1:], counts)


def smoothed_cross_entropy(
    log_probs: Tensor, labels: Tensor, counts: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Mean over the labels that count, from log-probabilities [B, U, V], labels [B, U] and `counts` [B, U].

    With smoothing s, the right token is asked for with probability 1 - s and each other one with s / (V - 1).
    """
    right = log_probs.gather(2, labels.unsqueeze(2)).squeeze(2)
    if label_smoothing:
        vocabulary = log_probs.shape[2]
        # Spread over all V evenly, the right token's own share among them: hence V / (V - 1).
        spread = label_smoothing * vocabulary / (vocabulary - 1)
        right = (1.0 - spread) * right + spread * log_probs.mean(dim=2)
    mask = counts.to(right.dtype)
    # Where nothing counts, the value may be infinite; a product with zero would make it NaN.
    return -torch.where(counts, right, right.new_zeros(())).sum() / (mask.sum() + _NOTHING)
