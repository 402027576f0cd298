"""Linear layers and depthwise convolutions over [B, T, D]. `B` batch, `T` frames, `D` width, `K` kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN = (
    hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""Whether oneDNN's products are preferred to the BLAS library's: with AVX-512 they are 10 to 25 % faster."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out]; the fastest product for the place."""
    usable = ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
    if usable and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, left: int, right: int) -> Tensor:
    """Each of D channels of x [B, T, D] with its own kernel of weight [D, 1, K], zeros to the left and right."""
    if left != right:
        x, left = F.pad(x, (0, 0, left, right)), 0
    # A picture of height one whose channels lie innermost: nothing is transposed in memory.
    picture = x.transpose(1, 2).unsqueeze(2)
    picture = F.conv2d(picture, weight.unsqueeze(2), bias, padding=(0, left), groups=weight.shape[0])
    return picture.squeeze(2).transpose(1, 2)


class Linear(nn.Linear):
    """A linear layer that takes the fastest product in inference, and may be quantised to int8."""

    quantisable = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Linear):
    """A convolution of kernel one over [B, T, D], with the weight stored [out, in, 1] as a convolution's."""

    quantisable = True

    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__(width_in, width_out, bias=bias)
        self.weight = nn.Parameter(self.weight.detach()[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out]."""
        return linear(x, self.weight.squeeze(-1), self.bias)


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear over [B, T, D]."""

    def __init__(self, width: int, inner: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.linear1 = Linear(width, inner, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        hidden = self.linear1(x)
        hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
        return self.linear2(self.dropout(hidden))
