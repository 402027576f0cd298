"""Eight-bit weights for inference on a CPU. `M` rows of an input, `N` outputs, `K` inputs.

Weights get one scale per output channel, activations one per row (so that a row never depends on its batch),
both symmetric; sums are exact in 32 bits.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from aronnax.core.errors import OptionError

Anything = TypeVar("Anything", bound=nn.Module)

_ONEDNN = hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()
# Without VNNI two products are first added in 16 bits, which full-range weights could overflow.
_WEIGHT_RANGE = 127 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 63


class QuantisedLinear(nn.Module):
    """A linear layer with int8 weights [N, K]; takes and gives floats, holds no gradients."""

    scale: Tensor
    bias: Tensor | None
    middle: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-30) / _WEIGHT_RANGE
        whole = (weight / scale[:, None]).round().clamp(-_WEIGHT_RANGE, _WEIGHT_RANGE).to(torch.int8)
        self.register_buffer("scale", scale / 127.0, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)
        self.register_buffer("middle", torch.tensor(128.5), persistent=False)
        self.register_buffer("zeros", torch.zeros(self.out_features, dtype=torch.int32), persistent=False)
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None) if _ONEDNN else whole.t()

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        if x.numel() == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        rows = x.flatten(0, -2).float()
        peak = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True).clamp_(min=1e-30)
        # Whole numbers around 128, which oneDNN is fast with; the cast cuts off what the half has rounded.
        whole = torch.addcmul(self.middle, rows, 127.0 / peak).to(torch.uint8)
        out = self._multiply(whole)
        out = out.mul_(peak) if self.bias is None else torch.addcmul(self.bias, out, peak)
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    def _multiply(self, whole: Tensor) -> Tensor:
        """Numbers around 128 [M, K] -> float [M, N], scaled by channel."""
        if not _ONEDNN:
            signed = whole.bitwise_xor_(128).view(torch.int8)
            return torch._int_mm(signed, self.packed).float().mul_(self.scale)
        return torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


def quantise(model: Anything) -> Anything:
    """Replaces, in place, the weights of every layer marked `quantisable` by int8; returns the model.

    The model must be on the CPU and is then for inference only: it cannot be trained or saved.

    Raises OptionError where the model is on another device or has no such layer.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if getattr(child, "quantisable", False)
    ]
    if not found:
        raise OptionError("weights='int8': this model has no layer that can be quantised, or already is")
    for parent, name, layer in found:
        weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
        if weight.device.type != "cpu":
            raise OptionError(
                f"weights='int8' runs on the CPU only, but the model is on {weight.device}: "
                "load it with device='cpu'"
            )
        setattr(parent, name, QuantisedLinear(weight.flatten(1), bias))
    return model.eval()
