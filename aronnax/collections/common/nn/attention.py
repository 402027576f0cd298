"""Multi-head attention with relative positions (Transformer-XL, arXiv 1901.02860), full or local.

`B` batch, `T` frames, `D` width, `H` heads, `K` width of a head, `P` distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.common.nn.derived import Derived
from aronnax.collections.common.nn.linear import Linear
from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.common.nn.positions import relative_positions
from aronnax.collections.common.nn.windows import MASKED, Attention, Block, plan_blocks
from aronnax.core import tiles
from aronnax.core.quantise import TiledLinear, last, together

KEPT_REACHES = (127, 255, 511)
"""Positions projected this far to each side are kept between calls; further ones are projected for each."""


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of one forward pass share.

    positions [P, D] hold the distances from `centre` down; padding [B, 1, 1, T] is added to the scores, and hides
    what lies beyond `lengths` [B].
    """

    attention: Attention
    blocks: tuple[Block, ...]
    positions: Tensor
    centre: int
    padding: Tensor | None
    lengths: Tensor

    @classmethod
    def make(
        cls,
        attention: Attention,
        lengths: Tensor,
        frames: int,
        heads: int,
        width: int,
        like: Tensor,
        padded: bool,
    ) -> AttentionPlan:
        """Plans attention over `frames` frames of rows of `lengths` [B], in the dtype and place of `like`."""
        blocks = plan_blocks(attention, lengths.shape[0] * heads, frames, like.device)
        left = max(block.q1 - 1 - block.k0 for block in blocks)
        right = max(block.k1 - 1 - block.q0 for block in blocks)
        # Equal reaches let all lengths share one projected table.
        reach = max(left, right)
        positions = relative_positions(reach, reach, width, like.device, like.dtype)
        padding = None
        if padded:
            valid = valid_frames(lengths, frames)
            padding = torch.zeros(valid.shape, dtype=like.dtype, device=like.device)
            padding = padding.masked_fill_(~valid, MASKED)[:, None, None, :]
        return cls(attention, blocks, positions, reach, padding, lengths)

    @property
    def kept(self) -> int | None:
        """How far to each side the positions reach that are kept between calls; None where that is not enough."""
        return next((reach for reach in KEPT_REACHES if reach >= self.centre), None)


class RelativeAttention(nn.Module):
    """Self-attention whose scores are ((q + u) k + (q + v) p) / sqrt(K), p the projected relative positions.

    The position term goes to `scaled_dot_product_attention` as its additive mask: one call a layer (one a
    block of queries where the input is long). Local attention, with or without global tokens, has the same weights;
    `separate_global` adds projections of their own for the global tokens.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, bias: bool = True, separate_global: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.linear_q = Linear(width, width, bias=bias)
        self.linear_k = Linear(width, width, bias=bias)
        self.linear_v = Linear(width, width, bias=bias)
        self.linear_out = Linear(width, width, bias=bias)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))
        self.separate_global = separate_global
        if separate_global:
            self.global_q = Linear(width, width, bias=bias)
            self.global_k = Linear(width, width, bias=bias)
            self.global_v = Linear(width, width, bias=bias)
        self.scale = 1.0 / math.sqrt(width // heads)
        self.projected = Derived()

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames in the padding get numbers without meaning."""
        given = together(x, (self.linear_q, self.linear_k, self.linear_v))
        if self._tiles_suit(plan):
            return last(self.linear_out, self._tiled(given, plan))
        query, key, value = map(self._heads, given)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        near = (query + self.pos_bias_u).transpose(1, 2)
        far = query + self.pos_bias_v
        positions, centre = self._project(plan)
        shared = self._global(x, query, key, value, plan)
        pieces = []
        for block in plan.blocks:
            bias = self._position_bias(far[:, block.q0 : block.q1], positions, centre, block)
            bias = _hide(bias, block, plan.padding)
            keys, values = key[:, :, block.k0 : block.k1], value[:, :, block.k0 : block.k1]
            if shared is not None:
                bias, keys, values = shared.extend(bias, keys, values, block)
            queries = near[:, :, block.q0 : block.q1]
            pieces.append(self._attend(queries, keys, values, bias))
        # Joined in the order of memory, so that nothing is copied once more behind it.
        frames = [piece.transpose(1, 2) for piece in pieces]
        out = (frames[0] if len(frames) == 1 else torch.cat(frames, dim=1)).transpose(1, 2)
        if shared is not None:
            out = shared.replace(out, self.dropout if self.training else 0.0)
        return last(self.linear_out, out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout, scale=self.scale)

    def _project(self, plan: AttentionPlan) -> tuple[Tensor, int]:
        """The projected positions [H, K, P], already scaled, and the column of distance 0."""
        positions, kept = plan.positions, plan.kept
        if self.training or torch.is_grad_enabled() or kept is None:
            return self._projected(positions), plan.centre

        def compute() -> Tensor:
            return self._table(positions, kept).contiguous()

        return self.projected.get((self.linear_pos.weight,), compute, key=(kept, positions.dtype)), kept

    def _table(self, like: Tensor, reach: int) -> Tensor:
        """The projected positions [H, K, P] up to `reach` frames to each side, as `like` [..., D] is."""
        return self._projected(relative_positions(reach, reach, like.shape[1], like.device, like.dtype))

    def _tiles_suit(self, plan: AttentionPlan) -> bool:
        """Whether the layer is quantised, all frames see all, and the table is worth being made of whole numbers."""
        if not isinstance(self.linear_q, TiledLinear) or self.training:
            return False
        everywhere = plan.attention == Attention() and plan.kept is not None
        return everywhere and self.projected.keeps((self.linear_pos.weight,))

    def _tiled(self, given: Sequence[Tensor], plan: AttentionPlan) -> Tensor:
        """Queries, keys and values [B, T, D] -> [B, T, D], all in numbers of 16 bits."""
        (query, key, value), reach = given, plan.kept
        assert reach is not None
        weight = self.linear_pos.weight

        def compute() -> tuple[tiles.Weight, int]:
            with torch.autocast("cpu", enabled=False):
                return tiles.Positions.packed(self._table(weight, reach))

        table, distances = self.projected.get((weight,), compute, key=("tiles", reach))
        positions = tiles.Positions(self.pos_bias_u, self.pos_bias_v, table, distances, reach)
        return tiles.attend(query, key, value, plan.lengths, self.heads, self.scale, positions)

    def _projected(self, positions: Tensor) -> Tensor:
        return self._heads(self.linear_pos(positions) * self.scale).permute(1, 2, 0)

    def _position_bias(self, far: Tensor, positions: Tensor, centre: int, block: Block) -> Tensor:
        """far [B, Q, H, K] against the block's distances -> [B, H, Q, keys], a view that copies nothing."""
        rows, queries = far.shape[:2]
        keys = block.k1 - block.k0
        first = centre - (block.q1 - 1 - block.k0)
        table = positions[:, :, first : first + queries + keys - 1]
        # Heads as the batch of the product: the table is shared by all rows and never repeated.
        product = torch.matmul(far.flatten(0, 1).transpose(0, 1), table)
        product = product.unflatten(1, (rows, queries)).transpose(0, 1)
        return relative_shift(product, keys)

    def _global(
        self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan
    ) -> _GlobalFrames | None:
        attention = plan.attention
        if attention.global_tokens == 0:
            return None
        frames = x.shape[1]
        stop = min(frames, attention.global_tokens * attention.global_tokens_spacing)
        picks = slice(0, stop, attention.global_tokens_spacing)
        if not self.separate_global:
            return _GlobalFrames(picks, query.transpose(1, 2), key, value, value, plan.padding, self.scale)
        queries = self._heads(self.global_q(x)).transpose(1, 2)
        keys = self._heads(self.global_k(x)).transpose(1, 2)
        values = self._heads(self.global_v(x)).transpose(1, 2)
        return _GlobalFrames(picks, queries, keys, values, value, plan.padding, self.scale)


@dataclass(frozen=True)
class _GlobalFrames:
    """Frames that all see and that see all (Longformer, arXiv 2004.05150); tensors are [B, H, T, K]."""

    picks: slice
    queries: Tensor
    keys: Tensor
    values: Tensor
    local_values: Tensor
    padding: Tensor | None
    scale: float

    def extend(
        self, bias: Tensor, keys: Tensor, values: Tensor, block: Block
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Puts the global frames before a block's keys, as zeros: their scores are the bias alone."""
        picked = self.keys[:, :, self.picks]
        scores = torch.matmul(self.queries[:, :, block.q0 : block.q1] * self.scale, picked.transpose(-2, -1))
        if self.padding is not None:
            scores = scores + self.padding[..., self.picks]
        bias = torch.cat([scores, bias], dim=-1)
        keys = torch.cat([torch.zeros_like(picked), keys], dim=2)
        return bias, keys, torch.cat([self.local_values[:, :, self.picks], values], dim=2)

    def replace(self, out: Tensor, dropout: float) -> Tensor:
        """Overwrites the global frames' rows of `out` [B, H, T, K] with attention to all frames."""
        queries = self.queries[:, :, self.picks]
        rows = F.scaled_dot_product_attention(
            queries, self.keys, self.values, self.padding, dropout_p=dropout, scale=self.scale
        )
        index = torch.arange(out.shape[2], device=out.device)[self.picks]
        return out.index_copy(2, index, rows.to(out.dtype))


def relative_shift(scores: Tensor, keys: int) -> Tensor:
    """scores [B, H, Q, Q + keys - 1] by distance -> [B, H, Q, keys] by key, as a view.

    Row i starts one place further left than the row above it, which is a row one shorter in flat memory.
    """
    queries, distances = scores.shape[-2:]
    if queries == 1:
        return scores
    flat = scores.flatten(2)[..., queries - 1 :]
    flat = flat[..., : queries * (distances - 1)]
    return flat.unflatten(-1, (queries, distances - 1))[..., :keys]


def _hide(bias: Tensor, block: Block, padding: Tensor | None) -> Tensor:
    """Adds the window's and the padding's masks; in place where no gradient is recorded."""
    hidden: Tensor | None = None if block.bias is None else block.bias.to(bias.dtype)
    if padding is not None:
        columns = padding[..., block.k0 : block.k1]
        hidden = columns if hidden is None else hidden + columns
    if hidden is None:
        return bias
    hidden = hidden.clamp(min=MASKED)
    return bias + hidden if torch.is_grad_enabled() else bias.add_(hidden)
