"""When each token was said, from what the decoder looked at while it wrote it.

Cross-attention of some heads follows the speech. Those are found by themselves, averaged, and the best rising path
through them (dynamic time warping) gives each token its frames. Shapes: B batch, L layers, H heads, U tokens,
T encoder frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aronnax.collections.common.nn.masks import valid_frames

HEADS_KEPT = 0.25
"""Share of all heads that is listened to."""

FAINT = 0.1
"""A token begins and ends where its attention falls below this share of its peak."""


def token_frames(
    attention: Sequence[Tensor], token_lengths: Tensor, frame_lengths: Tensor
) -> list[tuple[list[int], list[int]]]:
    """First frame and number of frames of each token, one pair of lists a row.

    attention: weights [B, H, U, T] a layer, where row u is what was looked at while token u was written.
    token_lengths, frame_lengths: tokens and frames [B] that are not padding.
    """
    heads = torch.cat([layer.float() for layer in attention], dim=1)
    batch, _, tokens, frames = heads.shape
    if tokens == 0:
        return [([], []) for _ in range(batch)]
    real = valid_frames(token_lengths, tokens)
    heard = valid_frames(frame_lengths.clamp(min=1), frames)
    heads = heads.masked_fill(~(real[:, None, :, None] & heard[:, None, None, :]), 0.0)
    chosen = _following_heads(heads, token_lengths, frame_lengths)
    weights = heads.gather(1, chosen[:, :, None, None].expand(-1, -1, tokens, frames)).mean(dim=1)
    weights = weights / weights.amax(dim=-1, keepdim=True).clamp(min=1e-9)
    first, last = _warped(-weights.masked_fill(~heard[:, None, :], -1e3), token_lengths, frame_lengths)
    return _trimmed(weights, first, last, token_lengths)


def _following_heads(heads: Tensor, token_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """Indices [B, K] of the heads [B, L*H, U, T] whose gaze is sharp and moves on with the tokens."""
    _batch, count, tokens, frames = heads.shape
    real = valid_frames(token_lengths, tokens)[:, None, :].to(heads.dtype)
    number = real.sum(dim=-1).clamp(min=1)
    sharp = (heads.amax(dim=-1) * real).sum(dim=-1) / number
    place = (heads * torch.arange(frames, device=heads.device)).sum(dim=-1) / frame_lengths.clamp(min=1)[
        :, None, None
    ]
    order = torch.arange(tokens, device=heads.device, dtype=heads.dtype).expand_as(place)
    place, order = (
        (x - (x * real).sum(dim=-1, keepdim=True) / number[..., None]) * real for x in (place, order)
    )
    spread = (place.square().sum(dim=-1) * order.square().sum(dim=-1)).sqrt()
    rising = (place * order).sum(dim=-1) / spread.clamp(min=1e-6)
    # One token does not move: then only sharpness tells.
    rising = torch.where(token_lengths[:, None] > 1, rising, torch.ones_like(rising))
    kept = max(1, round(HEADS_KEPT * count))
    chosen: Tensor = (sharp * rising.clamp(min=0.0)).topk(kept, dim=1).indices
    return chosen


def _warped(cost: Tensor, token_lengths: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """First and last frame [B, U] of every token on the cheapest path through `cost` [B, U, T].

    A path goes from the first token and frame to the last ones, one frame or one token or both on at a time.
    """
    batch, tokens, frames = cost.shape
    entered = torch.zeros_like(cost, dtype=torch.long)
    stayed = torch.zeros_like(cost, dtype=torch.bool)
    before = cost.new_full((batch, frames), torch.inf)
    index = torch.arange(frames, device=cost.device).expand(batch, -1)
    for u in range(tokens):
        # Entering token u at frame t costs what came before; then it may last for any number of frames.
        if u == 0:
            best = torch.where(index == 0, 0.0, torch.inf)
        else:
            shifted = torch.nn.functional.pad(before[:, :-1], (1, 0), value=torch.inf)
            stayed[:, u] = before < shifted
            best = torch.minimum(before, shifted)
        running = cost[:, u].cumsum(dim=1)
        start = best - torch.nn.functional.pad(running[:, :-1], (1, 0))
        cheapest, entered[:, u] = start.cummin(dim=1)
        before = cheapest + running
    first = torch.zeros(batch, tokens, dtype=torch.long, device=cost.device)
    last = torch.zeros_like(first)
    frame = frame_lengths.clamp(min=1) - 1
    for u in range(tokens - 1, -1, -1):
        inside = u < token_lengths
        last[:, u] = frame
        begin = entered[:, u].gather(1, frame[:, None])[:, 0]
        first[:, u] = begin
        same = stayed[:, u].gather(1, begin[:, None])[:, 0]
        frame = torch.where(inside, torch.where(same, begin, begin - 1).clamp(min=0), frame)
    return first, last


def _trimmed(
    weights: Tensor, first: Tensor, last: Tensor, token_lengths: Tensor
) -> list[tuple[list[int], list[int]]]:
    """The path's frames without the faint ones at both ends of each token's."""
    frames = torch.arange(weights.shape[-1], device=weights.device)
    on_path = (frames >= first[..., None]) & (frames <= last[..., None])
    seen = weights.masked_fill(~on_path, 0.0)
    strong = on_path & (seen >= FAINT * seen.amax(dim=-1, keepdim=True))
    begin = torch.where(strong, frames, weights.shape[-1]).amin(dim=-1)
    end = torch.where(strong, frames, -1).amax(dim=-1)
    begin = torch.cummax(begin, dim=1).values
    durations = (end - begin + 1).clamp(min=1)
    rows = zip(begin.tolist(), durations.tolist(), token_lengths.tolist())
    return [(starts[:n], lasting[:n]) for starts, lasting, n in rows]
