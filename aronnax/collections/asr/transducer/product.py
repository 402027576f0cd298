"""Products with few rows, as decoding needs them. `R` rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.common.nn.linear import ONEDNN

FEW_ROWS = 8
"""Rows the packed layout is made for; measured, it serves 1 to 32 rows equally well."""


class Product:
    """x [R, in] -> x W^T + b [R, out], with the weight (out, in) packed for oneDNN where that is faster.

    Packed, two to eight rows cost little more than one and half of what the BLAS library takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.packed: Tensor | None = None
        if ONEDNN and weight.device.type == "cpu" and weight.dtype == torch.float32:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, FEW_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """The product of one or more rows."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result
