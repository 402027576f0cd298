"""Wait-k: how much of the speech each answer token may see (arXiv 2406.19954; the policy is arXiv 1810.08398's).

Speech is heard in blocks of `stride` frames. The answer's token t (from 0) may see the first (k + t) * stride frames:
k blocks are waited for, then a token is written for every new block, and what remains is written after the end.

Legend: `B` rows, `U` positions, `T` frames.

>>> visibility(1, 2, tokens=3, frames=5).int()
tensor([[1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1]], dtype=torch.int32)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aronnax.core.errors import OptionError

EVERYTHING = 2**40
"""Frames seen where nothing is waited for."""


@dataclass(frozen=True)
class WaitK:
    """When a listener reads and when it writes."""

    k: int | None = None
    """Blocks heard before the first token; None hears everything first, which is how recordings are answered."""
    stride: int = 4
    """Frames of a block, of the model's own (0.08 s each, unless its adapter joins several)."""
    right: int = 0
    """Frames heard beyond a block before it counts as read: the look-ahead an encoder of limited context needs."""

    def __post_init__(self) -> None:
        for name, value, least in (("k", self.k, 1), ("stride", self.stride, 1), ("right", self.right, 0)):
            if name == "k" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"wait-k: {name} is {value!r}: it must be a whole number, at least {least}")

    def visible(self, token: int, frames: int) -> int:
        """Frames, of `frames`, that the answer's token `token` (from 0) may see."""
        return frames if self.k is None else min(frames, (self.k + token) * self.stride)

    def delays(self, tokens: int, frames: int) -> list[int]:
        """Frames heard when each of `tokens` tokens is written, if none ends the answer too early.

        As NeMo 3.0.0 counts them: min(frames, (token + k) * stride + right).
        """
        if self.k is None:
            return [frames] * tokens
        return [min(frames, (self.k + token) * self.stride + self.right) for token in range(tokens)]


def visible_frames(k: Tensor, stride: int, tokens: Tensor, frames: Tensor) -> Tensor:
    """Frames that tokens [B, U] of an answer may see, of `frames` [B, 1 or U], waiting for k [B] blocks: [B, U].

    A k of `EVERYTHING` waits for all.
    """
    return torch.minimum(frames, (k[:, None] + tokens).clamp(max=EVERYTHING) * stride)


def visibility(k: int | None, stride: int, tokens: int, frames: int) -> Tensor:
    """Whether token t of an answer may see frame j: bool [tokens, frames]."""
    policy = WaitK(k, stride)
    seen = torch.tensor([policy.visible(token, frames) for token in range(tokens)])
    return torch.arange(frames) < seen[:, None]
