"""RMS norms as the steps run them. `D` width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Norm:
    """x / sqrt(mean(x^2) + eps) * weight over the last of [..., D], summed up in single precision at least."""

    def __init__(self, weight: Tensor, eps: float, exact: bool = False) -> None:
        """`weight` is [D], or [..., D] where parts of an input have their own. `exact`: weighed before rounding."""
        self.weight = weight
        self.eps = eps
        self.exact = exact
        # torch's own norm is many small operations on a CPU. sqrt(D) times x / hypot(|x|, sqrt(D eps)) is few.
        self._few = weight.device.type == "cpu" and weight.dtype == torch.float32
        if self._few:
            width = weight.shape[-1]
            self._least = weight.new_tensor((width * eps) ** 0.5)
            self._weight = weight * width**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self._few and x.dtype == torch.float32:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return torch.div(x, torch.hypot(length, self._least)).mul_(self._weight)
        width, dtype = x.shape[-1:], self.weight.dtype
        if self.exact:
            return (F.rms_norm(x.float(), width, None, self.eps) * self.weight.float()).to(dtype)
        return F.rms_norm(x, width, None, self.eps).to(dtype) * self.weight
