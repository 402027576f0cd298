"""SpecAugment: bands and stretches of the features hidden in training (Park et al., 2019, section 2).

Shapes: `B` batch, `T` frames, `F` mel bands, `M` masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class SpecAugmentConfig:
    """How many masks are drawn for each row, and how wide they may be; the default draws none."""

    freq_masks: int = 0
    """Bands hidden in each row."""
    time_masks: int = 0
    """Stretches of time hidden in each row."""
    freq_width: int = 27
    """Widest band hidden, in mel bands."""
    time_width: float = 0.05
    """Widest stretch hidden: below 1 a share of the row's own frames, otherwise a number of frames."""

    def __post_init__(self) -> None:
        for name in ("freq_masks", "time_masks", "freq_width", "time_width"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} is negative; use 0 to draw no masks")


class SpecAugment(nn.Module):
    """Hide random bands and stretches of each row's own frames in training mode; do nothing in evaluation.

    >>> augment = SpecAugment(SpecAugmentConfig(freq_masks=2, time_masks=5))
    >>> augment(torch.ones(2, 100, 80), torch.tensor([100, 60])).shape
    torch.Size([2, 100, 80])
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return features [B, T, F] with masked places zero; `lengths` [B] in frames.

        Draws come from `generator` (on the features' device), or from torch's global one.
        """
        if not self.training or self.config.freq_masks + self.config.time_masks == 0:
            return features
        batch, n_frames, n_bands = features.shape
        bands = lengths.new_full((batch,), n_bands)
        widest_band = bands.clamp(max=self.config.freq_width)
        hidden = _masks(bands, widest_band, self.config.freq_masks, n_bands, generator).unsqueeze(1)
        stretches = _masks(lengths, self._widest_time(lengths), self.config.time_masks, n_frames, generator)
        return features.masked_fill(hidden | stretches.unsqueeze(2), 0.0)

    def _widest_time(self, lengths: Tensor) -> Tensor:
        if self.config.time_width >= 1:
            return lengths.clamp(max=int(self.config.time_width))
        share = (lengths * self.config.time_width).long().clamp(min=1)
        return torch.minimum(share, lengths)


def _masks(
    lengths: Tensor, widest: Tensor, n_masks: int, size: int, generator: torch.Generator | None
) -> Tensor:
    """Return [B, size], true where one of M masks lies: widths uniform on 0..widest, inside each length."""
    draws = torch.rand(2, len(lengths), n_masks, device=lengths.device, generator=generator)
    widths = (draws[0] * (widest + 1).unsqueeze(1)).long()
    starts = (draws[1] * (lengths - widest + 1).unsqueeze(1)).long()
    places = torch.arange(size, device=lengths.device).view(1, size, 1)
    inside = (places >= starts.unsqueeze(1)) & (places < (starts + widths).unsqueeze(1))
    return inside.any(dim=2)
