"""Linear layers over the last axis. `B` batch, `T` frames, `D` width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv(nn.Linear):
    """A convolution of kernel one over [B, T, D], with the weight stored [out, in, 1] as a convolution's."""

    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__(width_in, width_out, bias=bias)
        self.weight = nn.Parameter(self.weight.detach()[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out]."""
        return F.linear(x, self.weight[:, :, 0], self.bias)


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear over [B, T, D]."""

    def __init__(self, width: int, inner: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        hidden = self.linear1(x)
        hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
        return self.linear2(self.dropout(hidden))
