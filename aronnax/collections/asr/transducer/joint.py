"""The joint network: encoder state and prediction state -> scores of tokens, blank and durations. `J` joint width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from aronnax.collections.common.nn.linear import Linear

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@dataclass(frozen=True)
class JointConfig:
    """Configuration of the joint network."""

    hidden: int = 640
    """Width at which encoder and prediction meet."""
    dropout: float = 0.2
    """Dropout before the output layer."""
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"


class Joint(nn.Module):
    """score = W act(enc(e) + pred(p)) + b over V tokens, the blank, and D durations."""

    def __init__(
        self,
        config: JointConfig,
        encoder_width: int,
        prediction_width: int,
        vocab_size: int,
        n_durations: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.n_durations = n_durations
        self.enc = Linear(encoder_width, config.hidden)
        self.pred = nn.Linear(prediction_width, config.hidden)
        # With dropout the output layer is joint_net.2, without it joint_net.1: the names of the checkpoints.
        dropout = [nn.Dropout(config.dropout)] if config.dropout > 0 else []
        output = nn.Linear(config.hidden, vocab_size + 1 + n_durations)
        self.joint_net = nn.Sequential(_ACTIVATIONS[config.activation](), *dropout, output)

    @property
    def activation(self) -> nn.Module:
        """The activation between the projections and the output layer."""
        return self.joint_net[0]

    @property
    def output(self) -> nn.Linear:
        """The last layer (V+1+D, J)."""
        layer = self.joint_net[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, encoder_states: Tensor, prediction_states: Tensor) -> Tensor:
        """Encoder [B, T, D] and prediction states [B, U1, H] -> scores [B, T, U1, V+1+D]."""
        meeting = self.enc(encoder_states)[:, :, None] + self.pred(prediction_states)[:, None]
        scores: Tensor = self.joint_net(meeting)
        return scores
