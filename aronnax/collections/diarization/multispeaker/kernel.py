"""The speaker kernel: who speaks, added to what a recogniser's encoder heard (Park et al. 2024, arXiv 2409.06656).

Speaker `n` has the row `K[n, 2i] = sin(n / 10000^(2i/D))`, `K[n, 2i+1] = cos(n / 10000^(2i/D))`, and the decoder
hears `states + P K`. `B` batch, `T` frames, `D` width of the states, `N` speakers, `P` their probabilities [B, T, N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.core.errors import ConfigError, OptionError

PERIODS = 10000.0
"""Ratio of the slowest period of the kernel to its fastest."""

TOLERANCE = 2
"""Frames by which two counts of the frames of one recording may differ at its end."""


@dataclass(frozen=True)
class KernelConfig:
    """How probabilities and states are combined; the paper's own choice is not told, so the default changes least."""

    before: Literal["encoder", "decoder"] = "decoder"
    """Where the speakers are added: to the frames that enter the encoder's layers, which can then tell apart who
    speaks at once, or, as in the paper, to the states that leave them."""
    normalise: Literal["none", "l2"] = "none"
    """"l2" brings states and probabilities to unit length in each frame before they meet."""
    normalise_product: bool = False
    """Whether the product of probabilities and kernel has unit length where anybody speaks."""


def speaker_kernel(speakers: int, width: int) -> Tensor:
    """The kernel [N, D], float32; ConfigError for an odd width.

    >>> speaker_kernel(2, 4)[0]
    tensor([0., 1., 0., 1.])
    """
    if width % 2:
        raise ConfigError(f"the speaker kernel needs states of an even width, and these have {width}")
    speaker = torch.arange(speakers, dtype=torch.float64)[:, None]
    angle = speaker / PERIODS ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


class SpeakerKernel(nn.Module):
    """Adds the speakers of each frame to the states; it has nothing to learn."""

    table: Tensor

    def __init__(self, config: KernelConfig, speakers: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", speaker_kernel(speakers, width), persistent=False)

    def forward(self, states: Tensor, activity: Tensor) -> Tensor:
        """States [B, T, D] and probabilities [B, T, N] of the same frames -> states [B, T, D]."""
        activity = activity.to(states)
        if self.config.normalise == "l2":
            states, activity = F.normalize(states, dim=-1), F.normalize(activity, dim=-1)
        added = activity @ self.table.to(states)
        if self.config.normalise_product:
            added = F.normalize(added, dim=-1)
        return states + added


def aligned(activity: Tensor, lengths: Tensor, frames: int, frame_lengths: Tensor) -> Tensor:
    """Probabilities [B, T', N] with lengths [B] -> [B, T, N] for T = `frames` and rows of `frame_lengths` [B].

    A row that is a frame short repeats its last one, and a longer one is cut; the padding is zero. Raises
    OptionError where the counts differ by more than `TOLERANCE`, which means another frame rate.
    """
    off = (lengths - frame_lengths).abs().tolist()
    if off and max(off) > TOLERANCE:
        row = off.index(max(off))
        raise OptionError(
            f"the speakers' activity has {int(lengths[row])} frames where the encoder has {int(frame_lengths[row])}:"
            " both must have the same frame rate"
        )
    place = torch.arange(frames, device=activity.device)
    known = torch.minimum(place, (lengths - 1).clamp(min=0)[:, None])
    if activity.shape[1] == 0:
        return activity.new_zeros(len(activity), frames, activity.shape[2])
    found = activity.gather(1, known[:, :, None].expand(-1, -1, activity.shape[2]))
    heard = valid_frames(frame_lengths, frames) & (lengths > 0)[:, None]
    return found.masked_fill(~heard[:, :, None], 0.0)
