"""A mixture of experts as NemotronH has it: a router, experts without gates, a shared one, latent projections.

Legend: `B` rows, `D` width, `E` experts, `L` width experts take, `I` width inside them, `k` experts a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mix = Callable[[Tensor], Tensor]


def _squared(x: Tensor) -> Tensor:
    return F.relu(x).square_()


def activation(module: Any) -> Mix:
    """An activation of transformers, with fewer steps for the one these models have."""
    return _squared if type(module).__name__ == "ReLUSquaredActivation" else module


class Experts:
    """A layer of experts; `shared` is the one that every row passes through."""

    def __init__(self, mixer: Any, shared: Mix) -> None:
        self.mixer = mixer
        self.shared = shared
        self.experts = mixer.experts
        self.act = activation(self.experts.act_fn)
        # Experts with adapters are something else, which computes itself.
        self.plain = isinstance(getattr(self.experts, "up_proj", None), nn.Parameter)
        # Where experts stand in one group, choosing among groups is choosing all.
        gate = mixer.gate
        self.grouped = not isinstance(gate.weight, nn.Parameter) or gate.num_group > 1

    def chunk(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], many positions."""
        _, weights, chosen = self.mixer.gate(x)
        latent = self.mixer.fc1_latent_proj(x.reshape(-1, x.shape[-1]))
        mixed = self.mixer.fc2_latent_proj(self.experts(latent, chosen, weights))
        return mixed.view_as(x) + self.shared(x)

    def step(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D], a few rows: on a CPU only the experts that are chosen are looked at."""
        if x.is_cuda or not self.plain:
            return self.chunk(x)
        weights, chosen = self._route(x)
        latent = self.mixer.fc1_latent_proj(x)
        mixed = self._one(latent, weights, chosen) if len(x) == 1 else self._few(latent, weights, chosen)
        return self.mixer.fc2_latent_proj(mixed.to(latent.dtype)) + self.shared(x)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers [B, k] of each row's experts."""
        gate = self.mixer.gate
        if self.grouped:
            _, weights, chosen = gate(x)
            return weights, chosen
        scores = F.linear(x.float(), gate.weight.float()).sigmoid_()
        chosen = (scores + gate.e_score_correction_bias).topk(gate.top_k, dim=-1, sorted=False).indices
        weights = scores.gather(1, chosen)
        if gate.norm_topk_prob:
            weights /= weights.sum(dim=-1, keepdim=True) + 1e-20
        return weights * gate.routed_scaling_factor, chosen

    def _one(self, latent: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[1, L] -> [1, L]."""
        mixed = torch.zeros_like(latent)
        for expert, weight in zip(chosen[0].tolist(), weights[0].tolist()):
            inner = self.act(torch.mm(latent, self.experts.up_proj[expert].t()))
            mixed.addmm_(inner, self.experts.down_proj[expert].t(), alpha=weight)
        return mixed

    def _few(self, latent: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[B, L] -> [B, L]: rows are sorted by expert, so that each expert is looked at once."""
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts.up_proj)).tolist()
        rows = order // chosen.shape[1]
        given, found, start = latent.index_select(0, rows), latent.new_empty((len(order), latent.shape[1])), 0
        for expert, count in enumerate(counts):
            if count:
                inner = self.act(torch.mm(given.narrow(0, start, count), self.experts.up_proj[expert].t()))
                torch.mm(inner, self.experts.down_proj[expert].t(), out=found.narrow(0, start, count))
                start += count
        found = found * weights.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(latent, dtype=found.dtype).index_add_(0, rows, found)
