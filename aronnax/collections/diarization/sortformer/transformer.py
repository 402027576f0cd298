"""The post-norm Transformer encoder of Sortformer, with NeMo's parameter names.

`B` batch, `T` frames, `D` width, `H` heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.common.nn.linear import LEAST, Dropout, Linear, activated, plus
from aronnax.collections.common.nn.masks import any_padding, valid_frames
from aronnax.collections.common.nn.windows import MASKED
from aronnax.collections.diarization.sortformer.config import TransformerConfig
from aronnax.core import tiles
from aronnax.core.quantise import TiledLinear, last, together

LONGEST = 512
"""Frames up to which quantised layers attend by `tiles.attend`: what a head makes then stays in the cache."""


class TransformerEncoder(nn.Module):
    """Attention over all frames, without positions: order comes from the encoder before it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor, lengths: Tensor, right: int | None = None) -> Tensor:
        """x [B, T, D], lengths [B] -> [B, T, D]; with `right`, a frame sees no further ahead than that."""
        seen = Seen(attention_bias(x, lengths, right), lengths if right is None else None)
        for layer in self.layers:
            x = layer(x, seen)
        return x


class Seen(NamedTuple):
    """What a frame may look at: `bias` [B, 1, 1 or T, T] is added to the scores, where it is not None.

    lengths [B] say the same, where nothing but the padding is hidden.
    """

    bias: Tensor | None
    lengths: Tensor | None


class TransformerLayer(nn.Module):
    """Attention, residual, norm; feed-forward, residual, norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(config.width)
        self.first_sub_layer = SelfAttention(config)
        self.layer_norm_2 = nn.LayerNorm(config.width)
        self.second_sub_layer = FeedForward(config)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = self.layer_norm_1(plus(x, self.first_sub_layer(x, seen)))
        return self.layer_norm_2(plus(x, self.second_sub_layer(x)))


class SelfAttention(nn.Module):
    """Multi-head attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.n_heads, config.dropout_att
        self.scale = (config.width // config.n_heads) ** -0.5
        self.query_net = Linear(config.width, config.width)
        self.key_net = Linear(config.width, config.width)
        self.value_net = Linear(config.width, config.width)
        self.out_projection = Linear(config.width, config.width)
        self.layer_dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        query, key, value = together(x, (self.query_net, self.key_net, self.value_net))
        tiled = isinstance(self.query_net, TiledLinear) and not self.training
        if tiled and seen.lengths is not None and x.shape[1] <= LONGEST:
            found = tiles.attend(query, key, value, seen.lengths, self.heads, self.scale)
            return last(self.out_projection, found)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, seen.bias, dropout_p=dropout)
        return self.layer_dropout(last(self.out_projection, found.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense_in = Linear(config.width, config.inner)
        self.dense_out = Linear(config.inner, config.width)
        self.gelu = config.activation == "gelu"
        self.layer_dropout = Dropout(config.dropout_ff)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        hidden = F.gelu(self.dense_in(x)) if self.gelu else activated(self.dense_in, x, "relu")
        return self.layer_dropout(last(self.dense_out, hidden, LEAST["none" if self.gelu else "relu"]))


def attention_bias(x: Tensor, lengths: Tensor, right: int | None) -> Tensor | None:
    """What is added to the scores of states x [B, T, D] with lengths [B]: [B, 1, 1 or T, T], or None for nothing.

    With `right`, a frame sees no further ahead than that.
    """
    frames = x.shape[1]
    if right is None and not any_padding(lengths, frames):
        return None
    seen = valid_frames(lengths, frames)[:, None, :]
    if right is not None:
        seen = seen & torch.ones(frames, frames, dtype=torch.bool, device=x.device).tril(right)
    return torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill_(~seen, MASKED)[:, None]
