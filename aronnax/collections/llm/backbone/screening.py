"""The best token of a single row on a CPU, found without reading the whole head.

The head in eight bits, a quarter of the bytes, tells each token's score and how far off that can be at most. What can
be the best is then scored with the floats: the token found is the one that all floats would give, but for scores that
are equal to rounding.

Legend: `D` width, `V` vocabulary, `C` tokens that can be the best.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

LEAST = 2**24
"""Numbers in a head from which on screening pays."""
_LARGEST = 127 * 256
"""Whole number of an input's largest magnitude: both its bytes then have a sign."""
_ROUNDING = 1e-5
"""Sums of floats are in practice off by less than this, as a share of the lengths of both factors."""
_SANE = 1e15
"""Weights whose lengths are above this or below its inverse, or no number, are not screened."""
_MANY = 8
"""Where over a `_MANY`-th of the tokens can be the best, all are scored."""


def suits(weight: Tensor) -> bool:
    """Whether a head [V, D] is screened: large, in floats, on a processor that is fast with bytes (AMX)."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.numel() < LEAST:
        return False
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)()) and _sums_are_exact()


@cache
def _sums_are_exact() -> bool:
    """Whether products of bytes are: where oneDNN is kept from newer instructions they are cut off."""
    largest = torch.full((64, 64), 127, dtype=torch.int8, device="cpu")
    found = torch._int_mm(largest, torch.full((64, 2), -128, dtype=torch.int8, device="cpu"))
    return bool((found == -64 * 127 * 128).all())


class Screen:
    """A head [V, D], which is not copied, and what it is in eight bits."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        tokens, self.width = weight.shape
        self.scale, self.off = self.weight.new_empty(tokens), self.weight.new_empty(tokens)
        self.whole = self.weight.new_empty(weight.shape, dtype=torch.int8)
        # What all tokens have in common makes none the best, and would only take room from what differs.
        mean, apart = self.weight.mean(dim=0), 0.0
        for start in range(0, tokens, 4096):
            part, place = self.weight[start : start + 4096] - mean, slice(start, start + 4096)
            apart = max(apart, float(part.norm(dim=1).max()))
            scale = part.abs().amax(1).clamp_(min=1e-30) / 127.0
            rounded = (part / scale[:, None]).round_()
            self.whole[place], self.scale[place] = rounded.to(torch.int8), scale
            # Not less than it is, though it is summed in floats.
            self.off[place] = 1.0001 * rounded.mul_(-scale[:, None]).add_(part).norm(dim=1)
        self.apart = apart + float(self.off.max())
        self.longest = float(self.weight.norm(dim=1).max()) + self.apart
        self.bytes = self.scale.new_tensor([256.0, 1.0])

    def best(self, row: Tensor) -> Tensor:
        """The token [1] with the largest product with `row` [D]."""
        peak = float(row.abs().max())
        if not (1e-30 < peak < 1e30 and 1 / _SANE < self.longest < _SANE):
            return torch.mv(self.weight, row).max(0, keepdim=True).indices
        row = row * (_LARGEST / peak)
        size = math.sqrt(float(torch.dot(row, row)))
        about = self._about(row)
        # Of what the row loses when it is rounded no token has more than this.
        common = self.apart * math.sqrt(self.width) / 2 + self.longest * _ROUNDING * size
        least = float(torch.sub(about, self.off, alpha=size).max()) - 2 * common
        found = torch.add(about, self.off, alpha=size).ge_(least).nonzero()[:, 0]
        if _MANY * len(found) > len(self.weight):
            return torch.mv(self.weight, row).max(0, keepdim=True).indices
        scores = torch.mv(self.weight.index_select(0, found), row)
        return found.index_select(0, scores.max(0, keepdim=True).indices)

    def _about(self, row: Tensor) -> Tensor:
        """The products [V] of the rounded head, less its mean, with `row` [D] in whole numbers."""
        whole = row.round().to(torch.int32)
        high = (whole + 128) >> 8
        both = torch.stack([high, whole - (high << 8)], 1).to(torch.int8)
        # Read in the order in which it lies, which is as fast wherever that is; packed weights are not.
        return torch.mv(torch._int_mm(self.whole, both).float(), self.bytes).mul_(self.scale)
