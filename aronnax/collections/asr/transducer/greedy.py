"""One step of label-looping greedy decoding, for RNN-T and TDT, on CPU and inside a CUDA graph.

Legend: `B` rows, `K` frames looked at in one step, `J` joint width, `H` prediction width, `L` LSTM layers,
`V` vocabulary (blank = V), `D` durations.

While the model says blank its prediction state does not change, so the scores of the next K frames can be had with
one matrix product: the step follows blanks (and, for TDT, their durations) inside the block, and ends at the first
token or at the block's end. Method: Bataev et al. 2024, arXiv:2406.06220; Xu et al. 2023, arXiv:2304.06795.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import nn

    from aronnax.collections.asr.transducer.joint import Joint
    from aronnax.collections.asr.transducer.prediction import PredictionNetwork

TABLE_LIMIT = 2**22
"""Largest table of pre-multiplied embeddings, in numbers (16 MB of float32)."""


@dataclass(frozen=True)
class LSTMWeights:
    """One layer: `w_ih`, `w_hh` (4H, H) in the order input, forget, cell, output gate, and the sum of both biases."""

    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor


@dataclass(frozen=True)
class GreedyWeights:
    """The tensors a step reads, with what can be computed from them beforehand."""

    layers: tuple[LSTMWeights, ...]
    embedding: Tensor
    table: Tensor | None
    """Input gates of the first layer for every token (V+1, 4H), bias included, if small enough."""
    prediction: nn.Linear
    activation: nn.Module
    output: nn.Linear
    durations: Tensor | None
    """Frames of each duration output [D], or None for RNN-T."""
    longest: int
    """Most frames one step of the model can advance."""
    blank: int

    @classmethod
    def of(cls, network: PredictionNetwork, joint: Joint, durations: tuple[int, ...]) -> GreedyWeights:
        """Collect the weights of a model."""
        lstm = network.lstm
        layers = tuple(
            LSTMWeights(
                getattr(lstm, f"weight_ih_l{k}"),
                getattr(lstm, f"weight_hh_l{k}"),
                getattr(lstm, f"bias_ih_l{k}") + getattr(lstm, f"bias_hh_l{k}"),
            )
            for k in range(lstm.num_layers)
        )
        embedding = network.embedding.weight
        table = None
        if embedding.shape[0] * 4 * lstm.hidden_size <= TABLE_LIMIT:
            table = F.linear(embedding, layers[0].w_ih, layers[0].bias)
        frames = torch.tensor(durations, device=embedding.device) if durations else None
        return cls(
            layers,
            embedding,
            table,
            joint.pred,
            joint.activation,
            joint.output,
            frames,
            max(durations, default=1),
            network.blank,
        )

    def recur(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """New hidden and cell states [L, B, H] after `tokens` [B]."""
        new_hidden, new_cell = torch.empty_like(hidden), torch.empty_like(cell)
        below = None
        for k, layer in enumerate(self.layers):
            if below is None and self.table is not None:
                gates = self.table.index_select(0, tokens)
            else:
                seen = self.embedding.index_select(0, tokens) if below is None else below
                gates = F.linear(seen, layer.w_ih, layer.bias)
            gates = torch.addmm(gates, hidden[k], layer.w_hh.t())
            let_in, forget, candidate, let_out = gates.chunk(4, dim=1)
            state = torch.sigmoid(forget) * cell[k]
            state.addcmul_(torch.sigmoid(let_in), torch.tanh(candidate))
            below = torch.sigmoid(let_out) * torch.tanh(state)
            new_hidden[k], new_cell[k] = below, state
        return new_hidden, new_cell


@dataclass
class GreedyState:
    """Where each of the B rows stands. A step writes into these tensors and nothing else."""

    frames: Tensor
    """Encoder projections of all rows, one after another [rows * T, J]; read only."""
    offset: Tensor
    """Index of each row's first frame in `frames` [B]."""
    lengths: Tensor
    """Frames of each row [B]."""
    time: Tensor
    """The frame each row looks at next [B]; a row is done when it reaches its length."""
    hidden: Tensor
    """Hidden LSTM states [L, B, H]."""
    cell: Tensor
    """Cell LSTM states [L, B, H]."""
    prediction: Tensor
    """Projected prediction states [B, J]."""
    last_frame: Tensor
    """Frame of the last token [B], -1 before the first."""
    symbols: Tensor
    """Tokens said at that frame [B]."""

    def rows(self, keep: Tensor) -> GreedyState:
        """The state of some of the rows."""
        return replace(
            self,
            offset=self.offset[keep],
            lengths=self.lengths[keep],
            time=self.time[keep],
            hidden=self.hidden[:, keep],
            cell=self.cell[:, keep],
            prediction=self.prediction[keep],
            last_frame=self.last_frame[keep],
            symbols=self.symbols[keep],
        )


@dataclass(frozen=True)
class Said:
    """What the rows said in one step."""

    found: Tensor
    """Whether a token was found [B]; elsewhere the other fields mean nothing."""
    tokens: Tensor
    frames: Tensor
    durations: Tensor
    logits: Tensor
    """Token scores the choice was made from [B, V+1]."""


def greedy_step(
    weights: GreedyWeights, state: GreedyState, block: int, max_symbols: int, fixed: bool
) -> Said:
    """Move every row to its next token, or past `block` frames of blanks; updates `state` in place.

    With `fixed` the same operations run whatever the values are, as a CUDA graph needs; without it the prediction
    network is left out when no row found a token.
    """
    rows = state.time.shape[0]
    ahead = torch.arange(block, device=state.time.device)
    frames = state.time[:, None] + ahead
    inside = frames < state.lengths[:, None]
    index = torch.minimum(frames, (state.lengths - 1).clamp_(min=0)[:, None]) + state.offset[:, None]
    seen = state.frames.index_select(0, index.flatten()).view(rows, block, -1)
    meeting = weights.activation(seen + state.prediction[:, None])
    logits = F.linear(meeting, weights.output.weight, weights.output.bias)
    tokens = logits[..., : weights.blank + 1].argmax(dim=-1)
    going_on = (tokens == weights.blank) & inside
    durations = None
    if weights.durations is None:
        position = torch.where(going_on, block, ahead).amin(dim=1)
    else:
        durations = weights.durations[logits[..., weights.blank + 1 :].argmax(dim=-1)]
        position = _follow(torch.where(going_on, durations.clamp(min=1), 0), weights.longest)
    at = position.clamp(max=block - 1)[:, None]
    where = state.time + position
    found = (position < block) & (where < state.lengths)
    chosen = tokens.gather(1, at).squeeze(1)
    lasting = torch.zeros_like(where) if durations is None else durations.gather(1, at).squeeze(1)
    _advance(state, found, where, lasting, max_symbols)
    if fixed or bool(found.any()):
        _predict(weights, state, found, chosen)
    scores = logits[torch.arange(rows, device=at.device), at.squeeze(1), : weights.blank + 1]
    return Said(found, chosen, where, lasting, scores)


def _follow(hops: Tensor, longest: int) -> Tensor:
    """Where a walk from position 0 over `hops` [B, K] ends: on a hop of 0 or anywhere at or after K."""
    block = hops.shape[1]
    if block == 1:
        return hops[:, 0]
    places = torch.arange(block + longest, device=hops.device)
    target = F.pad(hops, (0, longest)) + places
    for _ in range((block - 1).bit_length()):
        target = target.gather(1, target.clamp_(max=block + longest - 1))
    return target[:, 0]


def _advance(state: GreedyState, found: Tensor, where: Tensor, lasting: Tensor, max_symbols: int) -> None:
    """Set time and the count of tokens at one frame; after `max_symbols` of them the frame is left."""
    again = where == state.last_frame
    state.symbols.copy_(torch.where(found, state.symbols * again + 1, state.symbols))
    state.last_frame.copy_(torch.where(found, where, state.last_frame))
    stuck = (lasting == 0) & (state.symbols >= max_symbols)
    state.time.copy_(where + torch.where(found, lasting + stuck, 0))


def _predict(weights: GreedyWeights, state: GreedyState, found: Tensor, tokens: Tensor) -> None:
    """Bring the prediction state of the rows that found a token up to date."""
    hidden, cell = weights.recur(tokens, state.hidden, state.cell)
    prediction = weights.prediction(hidden[-1])
    state.hidden.copy_(torch.where(found[None, :, None], hidden, state.hidden))
    state.cell.copy_(torch.where(found[None, :, None], cell, state.cell))
    state.prediction.copy_(torch.where(found[:, None], prediction, state.prediction))
