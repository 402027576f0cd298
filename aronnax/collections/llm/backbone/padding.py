"""Rows of different lengths, padded on the left or on the right. `B` rows, `U` positions, `D` width.

Inside, rows always begin at position 0: a causal model then needs no mask, for what is padded comes later.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
