"""Rows of different lengths, padded on the left or on the right. `B` rows, `U` positions, `D` width.

Inside, rows always begin at position 0: a causal model then needs no mask, for what is padded comes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import torch
from torch import Tensor, nn

from aronnax.core.errors import OptionError


def check_lengths(lengths: Tensor, rows: int, longest: int) -> None:
    """Raise OptionError unless there is a length of 1 to `longest` for each row."""
    if lengths.shape != (rows,):
        raise OptionError(f"lengths has shape {tuple(lengths.shape)}: {rows} rows need {rows} lengths")
    if rows and not 1 <= int(lengths.min()) <= int(lengths.max()) <= longest:
        raise OptionError(
            f"lengths are {lengths.tolist()}: each must be 1 to {longest}, the number of positions given"
        )


def to_right(x: Tensor, lengths: Tensor) -> Tensor:
    """Rows padded on the left [B, U, D], padded on the right instead."""
    return _roll(x, x.shape[1] - lengths)


def to_left(x: Tensor, lengths: Tensor) -> Tensor:
    """Rows padded on the right [B, U, D], padded on the left instead."""
    return _roll(x, lengths)


def _roll(x: Tensor, by: Tensor) -> Tensor:
    """Row b begins with its position by[b], and wraps around."""
    places = (torch.arange(x.shape[1], device=x.device) + by[:, None]) % x.shape[1]
    return x.gather(1, places[:, :, None].expand_as(x))


def positions_of(segments: Tensor) -> Tensor:
    """Position ids [B, U] that begin anew with each run of equal numbers in `segments` [B, U]."""
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    fresh = torch.ones_like(segments, dtype=torch.bool)
    fresh[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - (places * fresh).cummax(dim=1).values


def keeps_texts_apart(base: nn.Module, like: Tensor) -> bool:
    """Whether a decoder stack hides texts of a row from each other where its positions begin anew.

    Many of transformers' models take positions, and some of these make their masks without them. So two texts of four
    tokens each are tried: no gradient may run from the second back to the first, whatever drops out.
    `like` has the type, the place and the width [..., D] of what the stack reads.
    """
    if "position_ids" not in signature(base.forward).parameters:
        return False
    draw = torch.Generator().manual_seed(0)
    cuda = [like.device] if like.is_cuda else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(cuda):
        texts, asked = torch.randn(2, 1, 8, like.shape[-1], generator=draw).to(like)
        positions = torch.arange(8, device=like.device)[None] % 4
        texts.requires_grad_(True)
        hidden = base(inputs_embeds=texts, position_ids=positions, use_cache=False).last_hidden_state
        (gradient,) = torch.autograd.grad((hidden * asked)[:, 4:].sum(), texts)
    return not bool(gradient[:, :4].any())


class Unpadded:
    """Which positions of a chunk [B, U] are text: packed, these `N` follow each other without any padding."""

    def __init__(self, lengths: Sequence[int], start: int, size: int, device: torch.device) -> None:
        """Of the `size` positions from `start` on, in rows that end at `lengths`."""
        self.start, self.shape = start, (len(lengths), size)
        ends = torch.tensor(lengths) - start
        inside = ends.clamp(0, size)
        ended = ((ends > 0) & (ends <= size)).nonzero()[:, 0]
        places = (torch.arange(size) < inside[:, None]).flatten().nonzero()[:, 0]
        self.positions = (places % size + start).to(device)
        """Where each position stands in its row [N]."""
        self.lengths = inside.to(device)
        """Positions of each row in the chunk [B]."""
        self.ended = ended.to(device)
        """Rows whose last position is in the chunk [L]."""
        self.last = (inside.cumsum(0) - 1)[ended].to(device)
        """Where these last positions stand among all [L]."""
        self._places = None if len(places) == len(lengths) * size else places.to(device)

    def pack(self, x: Tensor) -> Tensor:
        """[B, U, ...] -> [N, ...]."""
        flat = x.flatten(0, 1)
        return flat if self._places is None else flat.index_select(0, self._places)

    def unpack(self, x: Tensor) -> Tensor:
        """[N, ...] -> [B, U, ...], with zeros in the padding."""
        if self._places is not None:
            rows, size = self.shape
            x = x.new_zeros((rows * size, *x.shape[1:])).index_copy_(0, self._places, x)
        return x.unflatten(0, self.shape)
