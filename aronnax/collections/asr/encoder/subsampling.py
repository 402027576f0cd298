"""Convolutional subsampling in time by a power of two.

`B` batch, `T` feature frames, `F` mel bands, `C` channels, `D` width.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.common.nn.linear import Linear, linear
from aronnax.collections.common.nn.masks import valid_frames

CHUNK = 128
"""Encoder frames that are subsampled at a time: bounds the memory of hours-long input, changes no number."""

Length = TypeVar("Length", int, Tensor)


class Convolutions(nn.Sequential):
    """Strided convolutions over time and frequency, each with a ReLU, [B, 1, T, F] -> [B, C, T', F']."""

    def __init__(self, config: FastConformerConfig, channels: int) -> None:
        layers: list[nn.Module] = []
        stages = config.subsampling_factor.bit_length() - 1
        depthwise = config.subsampling == "dw_striding"
        self.pads = (2, 1) if config.causal_downsampling else (1, 1)
        padding = 0 if config.causal_downsampling else 1
        for stage in range(stages):
            before = 1 if stage == 0 else channels
            groups = channels if depthwise and stage > 0 else 1
            layers.append(nn.Conv2d(before, channels, 3, stride=2, padding=padding, groups=groups))
            if groups > 1:
                layers.append(nn.Conv2d(channels, channels, 1))
            layers.append(nn.ReLU())
        super().__init__(*layers)
        self.causal = config.causal_downsampling

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Before each strided convolution frames beyond `lengths` [B] count as zeros; None: all are valid."""
        for layer in self:
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                if lengths is not None:
                    x = x.masked_fill(~valid_frames(lengths, x.shape[2])[:, None, :, None], 0.0)
                    lengths = self.halved(lengths)
                if self.causal:
                    x = F.pad(x, (2, 1, 2, 1))
                # The kernel's layout decides the output's: channels innermost suits all that follows.
                weight = layer.weight.to(memory_format=torch.channels_last)
                x = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)
            elif isinstance(layer, nn.Conv2d):
                x = _pointwise(layer, x)
            else:
                x = F.relu(x, inplace=not torch.is_grad_enabled())
        return x

    def halved(self, length: Length) -> Length:
        """Frames after one stride of two; no frames stay none."""
        if isinstance(length, Tensor):
            return torch.where(length > 0, (length + sum(self.pads) - 3) // 2 + 1, torch.zeros_like(length))
        return (length + sum(self.pads) - 3) // 2 + 1 if length > 0 else 0


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of kernel one as a product over the innermost channels."""
    x = linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
    return x.permute(0, 3, 1, 2)


class ConvSubsampling(nn.Module):
    """Features [B, T, F] to encoder input [B, T', D]; a row never depends on what it is batched with."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        channels = config.subsampling_conv_channels
        channels = config.d_model if channels == -1 else channels
        self.factor = config.subsampling_factor
        self.stages = self.factor.bit_length() - 1
        self.conv = Convolutions(config, channels)
        bands = config.feat_in
        for _ in range(self.stages):
            bands = self.conv.halved(bands)
        self.out = Linear(channels * bands, config.d_model)

    def output_length(self, frames: Length) -> Length:
        """Encoder frames of so many feature frames."""
        for _ in range(self.stages):
            frames = self.conv.halved(frames)
        return frames

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features [B, T, F], lengths [B] -> states [B, T', D], lengths [B]; padding comes out as zeros."""
        frames = self.output_length(features.shape[1])
        out_lengths = self.output_length(lengths)
        if features.device.type == "cpu" or frames > CHUNK:
            return self._by_rows(features, lengths, frames), out_lengths
        states = self._project(self.conv(features[:, None], lengths))
        return states.masked_fill(~valid_frames(out_lengths, frames)[:, :, None], 0.0), out_lengths

    def _by_rows(self, features: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """Each row by itself, to its own length, in chunks: no masks, no work on padding, bounded memory."""
        rows = []
        for row, length in zip(features, lengths.tolist()):
            pieces = [
                self._chunk(row[:length], start) for start in range(0, self.output_length(length), CHUNK)
            ]
            states = torch.cat(pieces) if pieces else features.new_zeros(0, self.out.out_features)
            rows.append(F.pad(states, (0, 0, 0, frames - states.shape[0])))
        return torch.stack(rows)

    def _chunk(self, row: Tensor, start: int) -> Tensor:
        """Encoder frames [start, start + CHUNK) of a row [T, F]."""
        total = self.output_length(row.shape[0])
        stop = min(total, start + CHUNK)
        # The first frames of a slice see the padding of the slice; a causal stack reaches one frame further.
        drop = min(start, 2 if self.conv.causal else 1)
        last = self.factor * (stop - 1) + 1 if self.conv.causal else self.factor * stop
        last = row.shape[0] if stop == total else last
        piece = row[self.factor * (start - drop) : last]
        return self._project(self.conv(piece[None, None]))[0, drop : drop + stop - start]

    def _project(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))


class FrameProjection(Linear):
    """Features [B, T, F] to encoder input [B, T, D], frame by frame: a subsampling factor of one."""

    quantisable = False

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__(config.feat_in, config.d_model)

    def output_length(self, frames: Length) -> Length:
        """As many frames as before."""
        return frames

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """features [B, T, F], lengths [B] -> states [B, T, D], lengths [B]; padding comes out as zeros."""
        inside = valid_frames(lengths, features.shape[1])[:, :, None]
        return super().forward(features).masked_fill(~inside, 0.0), lengths
