"""One Conformer block. `B` batch, `T` frames, `D` width."""

from __future__ import annotations

from torch import Tensor, nn

from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.asr.encoder.convolution import ConvolutionModule
from aronnax.collections.common.nn.attention import AttentionPlan, RelativeAttention
from aronnax.collections.common.nn.linear import Dropout, FeedForward, plus


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each a residual; then a norm."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.d_model * config.ff_expansion_factor
        local = config.self_attention_model == "rel_pos_local_attn"
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = FeedForward(width, inner, config.dropout, config.use_bias)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = ConvolutionModule(config)
        self.norm_self_att = nn.LayerNorm(width)
        self.self_attn = RelativeAttention(
            width, config.n_heads, config.dropout_att, config.use_bias, local and config.global_attn_separate
        )
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = FeedForward(width, inner, config.dropout, config.use_bias)
        self.dropout = Dropout(config.dropout)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Tensor, plan: AttentionPlan, hidden: Tensor | None) -> Tensor:
        """x [B, T, D], `hidden` [B, T, 1] true in the padding -> [B, T, D]."""
        x = plus(x, self.dropout(self.feed_forward1(self.norm_feed_forward1(x))), 0.5)
        x = plus(x, self.dropout(self.self_attn(self.norm_self_att(x), plan)))
        x = plus(x, self.dropout(self.conv(self.norm_conv(x), hidden)))
        x = plus(x, self.dropout(self.feed_forward2(self.norm_feed_forward2(x))), 0.5)
        return self.norm_out(x)
