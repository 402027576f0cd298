"""The FastConformer encoder (Rekesh et al. 2023, arXiv 2305.05084), with NeMo's parameter names and numbers.

`B` batch, `T` feature frames, `F` mel bands, `T'` encoder frames, `D` width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.asr.encoder.layer import ConformerLayer
from aronnax.collections.asr.encoder.subsampling import ConvSubsampling, FrameProjection, Length
from aronnax.collections.common.nn.attention import AttentionPlan
from aronnax.collections.common.nn.derived import forget_derived
from aronnax.collections.common.nn.masks import any_padding, valid_frames
from aronnax.collections.common.nn.windows import Attention

Enter = Callable[[Tensor, Tensor], Tensor]
"""Frames [B, T', D] and their lengths [B] -> frames [B, T', D]."""


class EncoderOutput(NamedTuple):
    """states [B, T', D] (zeros in the padding), lengths int64 [B], and each layer's output if asked for."""

    states: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...] | None = None


class FastConformer(nn.Module):
    """Log-mel features to encoder states; `attention` chooses another context for one call.

    >>> encoder = FastConformer(FastConformerConfig(n_layers=1, d_model=16, n_heads=2)).eval()
    >>> encoder(torch.zeros(1, 100, 80), torch.tensor([100])).states.shape
    torch.Size([1, 13, 16])
    """

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pre_encode = (
            ConvSubsampling(config) if config.subsampling_factor > 1 else FrameProjection(config)
        )
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.n_layers))
        self.tied = not config.untie_biases and config.self_attention_model == "rel_pos"
        self.skip_probabilities = _skip_probabilities(config)
        self._tie()
        # Loading with assignment gives each layer a tensor of its own.
        self.register_load_state_dict_post_hook(lambda module, keys: module._tie())

    def output_length(self, n_frames: Length) -> Length:
        """Encoder frames of so many feature frames (an int or a tensor of ints)."""
        return self.pre_encode.output_length(n_frames)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        attention: Attention | None = None,
        all_layers: bool = False,
        enter: Enter | None = None,
    ) -> EncoderOutput:
        """features [B, T, F], lengths [B] -> states [B, T', D], lengths [B].

        `enter` may change the frames [B, T', D] of lengths [B] that enter the first layer.
        """
        x, lengths = self.pre_encode(features, lengths.to(torch.int64))
        if enter is not None:
            x = enter(x, lengths)
        return self.encode_frames(x, lengths, attention=attention, all_layers=all_layers)

    def encode_frames(
        self, x: Tensor, lengths: Tensor, *, attention: Attention | None = None, all_layers: bool = False
    ) -> EncoderOutput:
        """The layers alone: frames [B, T', D] that `pre_encode` made, lengths [B] -> states [B, T', D]."""
        frames = x.shape[1]
        if frames == 0:
            return EncoderOutput(x, lengths, (x,) * len(self.layers) if all_layers else None)
        config = self.config
        if config.xscaling:
            x = x * math.sqrt(config.d_model)
        x = F.dropout(x, config.dropout_pre_encoder, self.training)
        padded = any_padding(lengths, frames)
        hidden = ~valid_frames(lengths, frames)[:, :, None] if padded else None
        plan = self._plan(attention or self._attention(), lengths, x, padded)
        outputs = []
        for layer, probability in zip(self.layers, self.skip_probabilities):
            x = self._layer(layer, probability, x, plan, hidden)
            if all_layers:
                outputs.append(x if hidden is None else x.masked_fill(hidden, 0.0))
        if hidden is not None:
            x = x.masked_fill(hidden, 0.0)
        return EncoderOutput(x, lengths, tuple(outputs) if all_layers else None)

    def train(self, mode: bool = True) -> FastConformer:
        """Sets training or inference mode, and forgets what inference had computed from the weights."""
        forget_derived(self)
        return super().train(mode)

    def _attention(self) -> Attention:
        """The configured attention; in training one of its contexts, drawn at random."""
        config = self.config
        contexts = config.att_context_size
        left, right = contexts[0]
        if self.training and len(contexts) > 1:
            weights = torch.tensor(config.att_context_probs or [1.0] * len(contexts))
            left, right = contexts[int(torch.multinomial(weights, 1))]
        if config.self_attention_model == "rel_pos_local_attn":
            return Attention(
                "local",
                left,
                right,
                global_tokens=config.global_tokens,
                global_tokens_spacing=config.global_tokens_spacing,
            )
        return Attention("full", left, right, config.att_context_style)

    def _plan(self, attention: Attention, lengths: Tensor, x: Tensor, padded: bool) -> AttentionPlan:
        config = self.config
        plan = AttentionPlan.make(attention, lengths, x.shape[1], config.n_heads, config.d_model, x, padded)
        if self.training and config.dropout_emb > 0:
            plan = replace(plan, positions=F.dropout(plan.positions, config.dropout_emb))
        return plan

    def _layer(
        self, layer: nn.Module, probability: float, x: Tensor, plan: AttentionPlan, hidden: Tensor | None
    ) -> Tensor:
        if self.config.activation_checkpointing and self.training and torch.is_grad_enabled():
            out = checkpoint(layer, x, plan, hidden, use_reentrant=False)
        else:
            out = layer(x, plan, hidden)
        if not self.training or probability == 0.0:
            return out
        # A skipped layer is multiplied by zero, not left out: all processes must see all gradients.
        kept = (torch.rand(()) >= probability).item() / (1.0 - probability)
        return x + (out - x) * kept

    def _tie(self) -> None:
        if not self.tied:
            return
        first: Any = self.layers[0]
        for layer in self.layers:
            attention: Any = layer.self_attn
            attention.pos_bias_u = first.self_attn.pos_bias_u
            attention.pos_bias_v = first.self_attn.pos_bias_v


def _skip_probabilities(config: FastConformerConfig) -> list[float]:
    """Stochastic depth (arXiv 2102.03216): layers before the start are never skipped."""
    start = min(config.stochastic_depth_start_layer, config.n_layers)
    droppable = config.n_layers - start
    probability = config.stochastic_depth_drop_prob
    if config.stochastic_depth_mode == "linear":
        return [0.0] * start + [probability * (i + 1) / droppable for i in range(droppable)]
    return [0.0] * start + [probability] * droppable
