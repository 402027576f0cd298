"""The linear layers of a model as its steps run them: side by side as one product where that pays, LoRA added.

Legend: `B` rows, `D` width in, `E` width out, `r` rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.llm.backbone import few_rows
from aronnax.collections.llm.backbone.adapters import is_lora

SMALL = 2**21
"""Numbers in weights that are laid side by side on a CPU: beyond, reading them hides what a call costs."""
MOST_COPIED = 2**32
"""Bytes of weights up to which a model's weights are copied at all."""


@dataclass(frozen=True)
class Part:
    """A linear layer with what LoRA adds to it."""

    weight: Tensor
    """[E, D]."""
    bias: Tensor | None
    """[E]."""
    low: tuple[tuple[Tensor, Tensor], ...]
    """Of each active adapter, A [r, D] and B [E, r] with the adapter's scale in it."""


def is_whole(model: nn.Module) -> bool:
    """Whether all weights are here as plain tensors, none of them a shard of one."""
    return all(type(parameter) is nn.Parameter for parameter in model.parameters())


def part_of(layer: Any) -> Part | None:
    """A layer's tensors; None if it is none whose product is known here, such as DoRA."""
    if type(layer) is nn.Linear:
        return Part(layer.weight, layer.bias, ())
    if not is_lora(layer) or type(layer.base_layer) is not nn.Linear:
        return None
    base, low = layer.base_layer, []
    if not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            if name not in layer.lora_A:
                continue
            a, b = layer.lora_A[name], layer.lora_B[name]
            if name in layer.lora_variant or type(a) is not nn.Linear or b.bias is not None:
                return None
            if a.weight.dtype != base.weight.dtype:
                return None
            low.append((a.weight, b.weight * layer.scaling[name]))
    return Part(base.weight, base.bias, tuple(low))


class Product:
    """One or several linear layers with one input; their outputs lie side by side."""

    def __init__(self, parts: Sequence[Part], copy: bool, *, row: bool = True) -> None:
        """`copy` tells whether weights may be copied at all, `row` whether they may be for single rows."""
        self.parts = tuple(parts)
        first = parts[0].weight
        size = sum(part.weight.numel() for part in parts)
        if len(parts) > 1 and copy and (first.is_cuda or size <= SMALL):
            self.parts = (_beside(self.parts),)
        self._plain = all(part.bias is None and not part.low for part in parts)
        self._by_row = copy and row and first.device.type == "cpu" and first.dtype == torch.float32
        self._row: RowProduct | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, E]."""
        if self._by_row and len(x) == 1:
            if self._row is None:
                self._row = RowProduct(self.parts)
            return self._row(x, 1.0)
        outs = [_product(part, x) for part in self.parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """The product of x [B, D], and `other` [B, E] added to it; of a single layer."""
        (part,) = self.parts
        if not self._plain:
            return other + self(x)
        if few_rows.suits(x, part.weight):
            return few_rows.joined(x, part.weight, "add", other)
        return torch.addmm(other, x, part.weight.t())

    def gated(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """The first half of the product of x [B, D], activated, times the second -> [B, E / 2]."""
        one = len(self.parts) == 1
        if self._plain and act is F.silu:
            gate, up = self.parts[0].weight.chunk(2) if one else [part.weight for part in self.parts]
            if few_rows.suits(x, gate):
                return few_rows.joined(x, up, "mul", few_rows.product(x, gate, "swish"))
        gate, up = self(x).chunk(2, dim=-1) if one else [_product(part, x) for part in self.parts]
        return act(gate).mul_(up)


class RowProduct:
    """Linear layers with one input, for a single row [1, D] on a CPU."""

    def __init__(self, parts: Sequence[Part], norm: Tensor | None = None) -> None:
        """`norm` are weights [D] that the input would be multiplied by, and is not."""
        part = parts[0] if len(parts) == 1 else _beside(parts)
        weight, self.width = part.weight.detach(), len(part.weight)
        if norm is not None:
            weight = weight * norm
        # A weight [D, E] is read in long runs, up to a third faster; where E is small they would not be long.
        copied = self.width >= weight.shape[1]
        self.weight = weight.t().contiguous() if copied else weight.t()
        self.bias = None if part.bias is None else part.bias[None]
        self.low = [((a if norm is None else a * norm).t(), b.t()) for a, b in part.low]

    def into(self, out: Tensor, x: Tensor, strength: float) -> None:
        """Write the product of `strength` times x [1, D] into [1, E]."""
        bias, beta = (out, 0) if self.bias is None else (self.bias, 1)
        torch.addmm(bias, x, self.weight, beta=beta, alpha=strength, out=out)
        self._adapt(out, x, strength)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Add the product of x [1, D] to [1, E]."""
        out.addmm_(x, self.weight)
        if self.bias is not None:
            out.add_(self.bias)
        self._adapt(out, x, 1.0)

    def __call__(self, x: Tensor, strength: float) -> Tensor:
        """The product of `strength` times x [1, D] -> [1, E]."""
        out = x.new_empty((1, self.width))
        self.into(out, x, strength)
        return out

    def _adapt(self, out: Tensor, x: Tensor, strength: float) -> None:
        for a, b in self.low:
            out.addmm_(torch.mm(x, a), b, alpha=strength)


def _product(part: Part, x: Tensor) -> Tensor:
    """[B, D] -> [B, E], with what adapters add."""
    if few_rows.suits(x, part.weight):
        out = few_rows.product(x, part.weight)
        out = out if part.bias is None else out + part.bias
    else:
        out = F.linear(x, part.weight, part.bias)
    for a, b in part.low:
        out = out + F.linear(F.linear(x, a), b)
    return out


def _bias_beside(parts: Sequence[Part]) -> Tensor | None:
    if all(part.bias is None for part in parts):
        return None
    return torch.cat(
        [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
    )


def _beside(parts: Sequence[Part]) -> Part:
    """The layers as one; their adapters stand on the diagonal."""
    low: tuple[tuple[Tensor, Tensor], ...] = ()
    if any(part.low for part in parts):
        downs = [[a for a, _ in part.low] for part in parts]
        ups = [torch.cat([b for _, b in part.low], dim=1) if part.low else None for part in parts]
        blocks = [
            part.weight.new_zeros((len(part.weight), 0)) if up is None else up for part, up in zip(parts, ups)
        ]
        low = ((torch.cat([a for down in downs for a in down]), torch.block_diag(*blocks)),)
    return Part(torch.cat([part.weight for part in parts]), _bias_beside(parts), low)
