"""Masks made from lengths. `B` batch, `T` frames, `D` width."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """True [B, T] where a frame lies inside its row's length."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def any_padding(lengths: Tensor, frames: int) -> bool:
    """Whether some row of lengths [B] is shorter than `frames`.

    Answers "yes" on an accelerator without looking, because looking would make the host wait for the device.
    """
    return lengths.device.type != "cpu" or bool((lengths < frames).any())
