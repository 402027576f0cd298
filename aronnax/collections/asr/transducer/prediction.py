"""The prediction network: what was said so far, as one state a token. `H` width, `V` vocabulary, blank = V."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PredictionConfig:
    """Configuration of the LSTM prediction network."""

    hidden: int = 640
    """Width of embedding and LSTM."""
    layers: int = 1
    """LSTM layers."""
    dropout: float = 0.2
    """Dropout on the output and between layers."""


class _RecurrentDropout(nn.Module):
    """LSTM followed by dropout, named as in NeMo's checkpoints."""

    def __init__(self, config: PredictionConfig) -> None:
        super().__init__()
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(config.hidden, config.hidden, config.layers, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():
            for layer in range(config.layers):
                gates = slice(config.hidden, 2 * config.hidden)
                getattr(self.lstm, f"bias_ih_l{layer}")[gates].fill_(1.0)
                getattr(self.lstm, f"bias_hh_l{layer}")[gates].zero_()

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        dropped: Tensor = self.dropout(states)
        return dropped


class PredictionNetwork(nn.Module):
    """Targets [B, U] -> states [B, U+1, H], the first of which has seen only the start of the sequence.

    The start is the blank's embedding, which is zero and stays so.
    """

    def __init__(self, config: PredictionConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.blank = vocab_size
        self.prediction = nn.ModuleDict(
            {
                "embed": nn.Embedding(vocab_size + 1, config.hidden, padding_idx=vocab_size),
                "dec_rnn": _RecurrentDropout(config),
            }
        )

    @property
    def embedding(self) -> nn.Embedding:
        """Token embedding (V+1, H)."""
        module = self.prediction["embed"]
        assert isinstance(module, nn.Embedding)
        return module

    @property
    def lstm(self) -> nn.LSTM:
        """The recurrent layers."""
        module = self.prediction["dec_rnn"].lstm
        assert isinstance(module, nn.LSTM)
        return module

    def forward(self, targets: Tensor) -> Tensor:
        """Targets [B, U] (padding may be anything) -> states [B, U+1, H]."""
        history = nn.functional.pad(targets.clamp(0, self.blank), (1, 0), value=self.blank)
        states: Tensor = self.prediction["dec_rnn"](self.embedding(history))
        return states
