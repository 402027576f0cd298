"""What the recipes for small diarizers share: hearing a batch layer by layer, and losses that tell voices apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.transformer import attention_bias

EMBEDDING = 96
"""Width of the vectors in which voices are compared."""
LEAST_FRAMES = 6
"""A speaker who is heard alone for less is not compared with others."""
HALVES_SCALE = 15.0
"""Of the cosines between what speakers say first and later."""


def hear(
    model: SortformerModel, signal: Tensor, lengths: Tensor
) -> tuple[tuple[Tensor, ...], list[Tensor], Tensor]:
    """States [B, T, D] after each of the encoder's layers, probabilities [B, T, N] after each behind it, lengths."""
    with torch.no_grad():
        features, lengths = model.features(signal, lengths)
        features = model.spec_augmentation(features, lengths)
    frames, lengths = model.encoder.pre_encode(features, lengths)
    encoded = model.encoder.encode_frames(frames, lengths, all_layers=True)
    assert encoded.layers is not None
    x, found = model.sortformer_modules.project(encoded.states), []
    bias = attention_bias(x, lengths, None)
    for layer in model.transformer_encoder.layers:
        x = layer(x, bias)
        found.append(model.sortformer_modules(x).float())
    return encoded.layers, found, lengths


class Helper(nn.Module):
    """Two tasks beside the diarization that make the encoder's states tell voices apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, EMBEDDING)
        self.scale = nn.Parameter(torch.tensor([8.0, -2.0]))

    def forward(self, states: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, T, D], labels [B, T, N] -> the losses of pairs of frames and of halves."""
        frames = min(states.shape[1], labels.shape[1])
        states, labels = states[:, :frames], labels[:, :frames]
        alone = (labels.sum(2) == 1) & valid_frames(lengths, frames)
        seen = F.normalize(self.affinity(states), dim=-1)
        likeness = self.scale[0] * seen @ seen.transpose(1, 2) + self.scale[1]
        same = labels @ labels.transpose(1, 2)
        pairs = (alone[:, :, None] & alone[:, None, :]).float()
        # Pairs of two voices count as much as pairs of one.
        weight = pairs * (
            same / (pairs * same).sum().clamp(min=1) + (1 - same) / (pairs * (1 - same)).sum().clamp(min=1)
        )
        affinity = (F.binary_cross_entropy_with_logits(likeness, same, reduction="none") * weight).sum() / 2
        return affinity, _halves(seen, labels * alone[:, :, None])


def _halves(seen: Tensor, spoken: Tensor) -> Tensor:
    """Whether what each speaker says first is most like what the same speaker says later, among all of a batch.

    Unit vectors [B, T, K] and who speaks alone [B, T, N]; the speakers of all sessions are told apart.
    """
    so_far, all_of_it = spoken.cumsum(1), spoken.sum(1, keepdim=True)
    early = spoken * (so_far <= all_of_it / 2)
    heard = (all_of_it[:, 0] >= LEAST_FRAMES).flatten()
    if heard.sum() < 2:
        return seen.sum() * 0
    first, second = (
        F.normalize((part.transpose(1, 2) @ seen).flatten(0, 1)[heard], dim=-1)
        for part in (early, spoken - early)
    )
    likeness = HALVES_SCALE * first @ second.T
    who = torch.arange(len(first))
    return (F.cross_entropy(likeness, who) + F.cross_entropy(likeness.T, who)) / 2
