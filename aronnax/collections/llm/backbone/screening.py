"""The best token of a single row on a CPU, found without reading the whole head.

The head in eight bits, a quarter of the bytes, tells each token's score and how far off that can be at most. What can
be the best is then scored with the floats: a few tokens, so that the one found is the one that all floats would give.

Legend: `D` width, `V` vocabulary, `C` tokens that can be the best.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 2**24
"""Numbers in a head from which on screening pays."""
_LARGEST = 127 * 256
"""Whole number of an input's largest magnitude: both its bytes then have a sign."""
_ROUNDING = 1e-5
"""Sums of floats are off by less than this, as a share of the lengths of both factors."""
_MANY = 8
"""Where over a `_MANY`-th of the tokens can be the best, all are scored."""


def suits(weight: Tensor) -> bool:
    """Whether a head [V, D] is screened: large, in floats, on a processor that sums products of bytes exactly."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.numel() < LEAST:
        return False
    vnni = getattr(torch.cpu, "_is_vnni_supported", bool)()
    return vnni and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Screen:
    """A head [V, D], which is not copied, and what it is in eight bits."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        tokens, self.width = weight.shape
        self.scale, self.off = weight.new_empty(tokens), weight.new_empty(tokens)
        whole = torch.empty(weight.shape, dtype=torch.int8)
        for start in range(0, tokens, 4096):
            part, place = self.weight[start : start + 4096], slice(start, start + 4096)
            scale = part.abs().amax(1).clamp_(min=1e-30) / 127.0
            rounded = (part / scale[:, None]).round_()
            whole[place], self.scale[place] = rounded.to(torch.int8), scale
            # Not less than it is, though it is summed in floats.
            self.off[place] = 1.0001 * rounded.mul_(-scale[:, None]).add_(part).norm(dim=1)
        self.longest = float(self.weight.norm(dim=1).max() + self.off.max())
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self.zeros = torch.zeros(tokens, dtype=torch.int32)

    def best(self, row: Tensor) -> Tensor:
        """The token [1] with the largest product with `row` [D]."""
        size = math.sqrt(float(torch.dot(row, row)))
        if not 1e-30 < size < math.inf:
            return torch.mv(self.weight, row).max(0, keepdim=True).indices
        unit = float(row.abs().max()) / _LARGEST
        about = self._about(row, unit)
        # Of what the row lost when it was rounded no token has more than this.
        common = self.longest * (unit * math.sqrt(self.width) / 2 + _ROUNDING * size)
        least = float(torch.sub(about, self.off, alpha=size).max()) - 2 * common
        found = torch.add(about, self.off, alpha=size).ge_(least).nonzero()[:, 0]
        if _MANY * len(found) > len(self.weight):
            return torch.mv(self.weight, row).max(0, keepdim=True).indices
        scores = torch.mv(self.weight.index_select(0, found), row)
        return found.index_select(0, scores.max(0, keepdim=True).indices)

    def _about(self, row: Tensor, unit: float) -> Tensor:
        """The products [V] of the rounded head with `row` in units."""
        whole = (row / unit).round_().to(torch.int32)
        high = (whole + 128) >> 8
        # Around 128, which oneDNN is fast with.
        both = torch.stack([high, whole - (high << 8)]).add_(128).to(torch.uint8)
        high, low = torch.ops.onednn.qlinear_pointwise(
            both, unit, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.add(low, high, alpha=256.0)
