"""Products of a few rows on a CPU, as oneDNN runs them fastest: the weight times the rows as columns.

A step of a batch reads every weight once for a handful of rows. On the left the weight is read as it lies, and the
rows are what is laid out anew: a quarter faster than rows times weight, even a weight copied in oneDNN's own order.
What comes out is stored by columns, [B, E] with strides (1, B); operations on single numbers keep it so.

Legend: `B` rows, `D` width in, `E` width out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aronnax.collections.common.nn.linear import ONEDNN, Activation

ROWS = range(4, 65)
"""Numbers of rows where this pays: for fewer and for more the BLAS library is as fast or faster."""
LEAST = 2**23
"""Least rows times numbers of the weight: below, what a call of oneDNN costs is more than it saves."""


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether x [B, D] times the weight [E, D] is such a product."""
    right = ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    return right and len(x) in ROWS and len(x) * weight.numel() >= LEAST


def product(x: Tensor, weight: Tensor, then: Activation = "none") -> Tensor:
    """x [B, D] times a weight [E, D] transposed, then activated -> [B, E]."""
    return torch.ops.mkldnn._linear_pointwise(weight, x, None, then, [], "").t()


def joined(x: Tensor, weight: Tensor, how: Literal["add", "mul"], other: Tensor) -> Tensor:
    """The sum or product of `other` [B, E] and x [B, D] times a weight [E, D] transposed -> [B, E]."""
    return torch.ops.mkldnn._linear_pointwise.binary(weight, other.t(), x, None, how).t()
