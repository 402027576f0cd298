"""RMS norms as the steps run them. `D` width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Norm:
    """x / sqrt(mean(x^2) + eps) * weight over [..., D], summed up in single precision at least."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        # torch's own norm is many small operations on a CPU. sqrt(D) times x / hypot(|x|, sqrt(D eps)) is few.
        self._few = weight.device.type == "cpu" and weight.dtype == torch.float32
        if self._few:
            width = weight.shape[-1]
            self._least = weight.new_tensor((width * eps) ** 0.5)
            self._weight = weight * width**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if not self._few:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.div(x, torch.hypot(length, self._least)).mul_(self._weight)
