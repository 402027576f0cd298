"""Choosing the next token: the best one, or one drawn. `B` rows, `V` vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from aronnax.collections.common.nn.generation.options import GenerationOptions


def uniforms(rows: int, samples: int, steps: int, seed: int | None, device: torch.device) -> Tensor:
    """Numbers in [0, 1) for every step of every sample [rows * samples, steps]; with a seed, equal for all rows."""
    if seed is None:
        return torch.rand(rows * samples, steps, dtype=torch.float64).to(device)
    drawn = [
        torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sample))
        for sample in range(samples)
    ]
    return torch.stack(drawn * rows).to(device)


def choose(scores: Tensor, options: GenerationOptions, drawn: Tensor | None) -> Tensor:
    """The next token [B] by scores [B, V]; `drawn` [B] are the step's uniform numbers."""
    if drawn is None:
        # On a CPU twice as fast as argmax.
        return scores.max(dim=-1).indices
    probabilities, order = torch.softmax(scores.double() / options.temperature, dim=-1).sort(
        dim=-1, descending=True, stable=True
    )
    if options.top_k is not None:
        probabilities[:, options.top_k :] = 0.0
    heaps = probabilities.cumsum(dim=-1)
    if options.top_p is not None:
        total = heaps[:, -1:]
        kept = heaps - probabilities < options.top_p * total
        heaps = (probabilities * kept).cumsum(dim=-1)
    place = (heaps <= drawn[:, None] * heaps[:, -1:]).sum(dim=-1, keepdim=True)
    last = (heaps < heaps[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, torch.minimum(place, last)).squeeze(1)
