"""The convolution module of a Conformer block, kept in [B, T, D] throughout.

`B` batch, `T` frames, `D` width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.common.nn.derived import Derived
from aronnax.collections.common.nn.linear import LEAST, PointwiseConv, depthwise
from aronnax.core.quantise import last


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, depthwise, norm, SiLU, pointwise; a batch norm is folded in inference."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.context = config.conv_context
        self.pointwise_conv1 = PointwiseConv(width, 2 * width, bias=config.use_bias)
        self.depthwise_conv = nn.Conv1d(
            width, width, config.conv_kernel_size, groups=width, bias=config.use_bias
        )
        self.batch_norm = (
            nn.LayerNorm(width) if config.conv_norm_type == "layer_norm" else nn.BatchNorm1d(width)
        )
        self.pointwise_conv2 = PointwiseConv(width, width, bias=config.use_bias)
        self.folded = Derived()

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames where `hidden` [B, T, 1] is true count as zeros."""
        x = F.glu(self.pointwise_conv1(x), dim=-1)
        if hidden is not None:
            x = x.masked_fill(hidden, 0.0)
        if isinstance(self.batch_norm, nn.BatchNorm1d) and not self.training:
            x = self._depthwise(x, *self._fold(self.batch_norm))
        else:
            x = self._normalise(self._depthwise(x, self.depthwise_conv.weight, self.depthwise_conv.bias))
        return last(self.pointwise_conv2, F.silu(x, inplace=not torch.is_grad_enabled()), LEAST["swish"])

    def _depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return depthwise(x, weight, bias, *self.context)

    def _normalise(self, x: Tensor) -> Tensor:
        if isinstance(self.batch_norm, nn.LayerNorm):
            return self.batch_norm(x)
        return self.batch_norm(x.flatten(0, 1)).view_as(x)

    def _fold(self, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
        conv = self.depthwise_conv
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        tracked = [conv.weight, norm.weight, norm.bias, mean, variance]
        if conv.bias is not None:
            tracked.append(conv.bias)

        def compute() -> tuple[Tensor, Tensor]:
            gain = norm.weight * torch.rsqrt(variance + norm.eps)
            offset = -mean if conv.bias is None else conv.bias - mean
            return conv.weight * gain[:, None, None], torch.addcmul(norm.bias, offset, gain)

        return self.folded.get(tracked, compute)
