"""Linear layers and depthwise convolutions over [B, T, D]. `B` batch, `T` frames, `D` width, `K` kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aronnax.collections.common.nn.derived import Derived
from aronnax.core.quantise import WholeNumberLinear, last

ONEDNN = (
    hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""Whether oneDNN's products are preferred to the BLAS library's: with AVX-512 they are 10 to 25 % faster."""

Activation = Literal["none", "relu", "swish"]
"""What may follow a product, by oneDNN's names; "swish" is SiLU."""

LEAST: Mapping[Activation, float] = {"none": -math.inf, "relu": 0.0, "swish": -0.27847}
"""What no number is below after each."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: Activation = "none") -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out], then activated; the fastest for the place."""
    if not _suits_onednn(x, weight) or torch.is_autocast_enabled("cpu"):
        return _activate(F.linear(x, weight, bias), then)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _activate(_Product.apply(x, weight, bias), then)
    return _product(x, weight, bias, then)


def _activate(x: Tensor, then: Activation) -> Tensor:
    """In place where no gradient is recorded."""
    if then == "none":
        return x
    return (F.silu if then == "swish" else F.relu)(x, inplace=not torch.is_grad_enabled())


def plus(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """x plus `scale` times y, both [..., D]; without gradients the sum lies where y lay, which is spent."""
    spent = not torch.is_grad_enabled() and x.dtype == y.dtype
    return torch.add(x, y, alpha=scale, out=y if spent else None)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: Activation = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")


class _Product(torch.autograd.Function):
    """oneDNN's product with a gradient, which the operator itself has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        grad_x = _product(grad, weight.t()) if needs_x else None
        grad_weight = _product(rows.t(), x.flatten(0, -2).t()) if needs_weight else None
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, left: int, right: int) -> Tensor:
    """Each of D channels of x [B, T, D] with its own kernel of weight [D, 1, K], zeros to the left and right."""
    if left != right:
        x, left = F.pad(x, (0, 0, left, right)), 0
    # A picture of height one whose channels lie innermost: nothing is transposed in memory.
    picture = x.transpose(1, 2).unsqueeze(2)
    picture = F.conv2d(picture, weight.unsqueeze(2), bias, padding=(0, left), groups=weight.shape[0])
    return picture.squeeze(2).transpose(1, 2)


class Linear(nn.Linear):
    """A linear layer that takes the fastest product in inference, and may be quantised."""

    quantisable = True

    def forward(self, x: Tensor, then: Activation = "none") -> Tensor:
        """[..., in] -> [..., out]; `then` is applied to the product, see `activated`."""
        return linear(x, self.weight, self.bias, then)


def activated(layer: nn.Module, x: Tensor, then: Activation) -> Tensor:
    """`then` of what `layer` makes of x [..., in]: in the product itself where that can be, which saves a pass."""
    if type(layer) is Linear or isinstance(layer, WholeNumberLinear):
        return layer(x, then)
    return _activate(layer(x), then)


class StepLinear(Linear):
    """A linear layer of a decoder, which takes a row a recording and step.

    On a CPU, products of a few rows take a copy of the weight in oneDNN's own order, 12 % faster for all of a step.
    """

    few = range(2, 33)
    """Numbers of rows the copy is for: one row only reads the weight, and many hide the order it is read in."""
    least = 2**16
    """Numbers in a weight that is worth it."""

    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__(width_in, width_out, bias=bias)
        self._packed = Derived()

    def forward(self, x: Tensor, then: Activation = "none") -> Tensor:
        """[..., in] -> [..., out]; `then` is applied to the product."""
        rows, weight = x.numel() // x.shape[-1], self.weight
        few = rows in self.few and weight.numel() >= self.least and _suits_onednn(x, weight)
        if not few or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return linear(x, weight, self.bias, then)
        return _product(x, self._packed.get([weight], self._pack), self.bias, then)

    def _pack(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), 8)


class PointwiseConv(nn.Linear):
    """A convolution of kernel one over [B, T, D], with the weight stored [out, in, 1] as a convolution's."""

    quantisable = True

    def __init__(self, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__(width_in, width_out, bias=bias)
        self.weight = nn.Parameter(self.weight.detach()[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, in] -> [B, T, out]."""
        return linear(x, self.weight.squeeze(-1), self.bias)


class Dropout(nn.Dropout):
    """Dropout that on a CPU draws 16 random bits a number, several times faster than a Bernoulli draw."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in inference."""
        if not self.training or self.p == 0.0:
            return x
        threshold = round(self.p * 65536)
        if x.device.type != "cpu" or threshold in (0, 65536):
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 32768
        return (x * kept).mul_(65536 / (65536 - threshold))


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear over [B, T, D]."""

    def __init__(self, width: int, inner: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.linear1 = Linear(width, inner, bias=bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return last(self.linear2, self.dropout(activated(self.linear1, x, "swish")), LEAST["swish"])
