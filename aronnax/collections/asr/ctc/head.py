"""The CTC head: one linear layer over encoder states. `V` vocabulary, blank = V."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aronnax.collections.common.nn.linear import PointwiseConv


class CTCHead(nn.Module):
    """Encoder states [B, T, D] -> log-probabilities [B, T, V+1]."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        layer = PointwiseConv(width, vocab_size + 1)
        nn.init.xavier_uniform_(layer.weight)
        self.decoder_layers = nn.Sequential(layer)
        self.blank = vocab_size

    def logits(self, states: Tensor) -> Tensor:
        """Unnormalised scores [B, T, V+1]."""
        scores: Tensor = self.decoder_layers(states)
        return scores

    def forward(self, states: Tensor) -> Tensor:
        """Log-probabilities [B, T, V+1], at least float32."""
        return torch.log_softmax(
            self.logits(states).to(torch.promote_types(states.dtype, torch.float32)), dim=-1
        )
