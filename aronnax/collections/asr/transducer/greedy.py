"""One step of label-looping greedy decoding, for RNN-T and TDT, on CPU and inside a CUDA graph.

Legend: `B` rows, `K` frames looked at in one step, `J` joint width, `H` prediction width, `L` LSTM layers,
`V` vocabulary (blank = V), `D` durations.

While the model says blank its prediction state does not change, so the scores of the next K frames can be had with
one matrix product: the step follows blanks (and, for TDT, their durations) inside the block, and ends at the first
token or at the block's end. Method: Bataev et al. 2024, arXiv:2406.06220; Xu et al. 2023, arXiv:2304.06795.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.asr.transducer.product import Product

if TYPE_CHECKING:
    from torch import nn

    from aronnax.collections.asr.transducer.joint import Joint
    from aronnax.collections.asr.transducer.prediction import PredictionNetwork

TABLE_LIMIT = 2**22
"""Largest table of pre-multiplied embeddings, in numbers (16 MB of float32)."""


LONGEST_BLOCK = 16
"""Most frames whose scores are computed in one step."""


@dataclass(frozen=True)
class LSTMWeights:
    """One layer: products with (4H, H), in the order input, forget, cell, output gate; `seen` adds both biases."""

    seen: Product
    kept: Product


@dataclass(frozen=True)
class GreedyWeights:
    """The tensors a step reads, with what can be computed from them beforehand."""

    layers: tuple[LSTMWeights, ...]
    embedding: Tensor
    table: Tensor | None
    """Input gates of the first layer for every token (V+1, 4H), biases included, if small enough."""
    prediction: Product
    activation: nn.Module
    output: Product
    durations: Tensor | None
    """Frames of each duration output [D], or None for RNN-T."""
    longest: int
    """Most frames one step of the model can advance."""
    blank: int
    ahead: Tensor
    """0, 1, 2, ... `LONGEST_BLOCK` - 1."""

    @classmethod
    def of(cls, network: PredictionNetwork, joint: Joint, durations: tuple[int, ...]) -> GreedyWeights:
        """Collect the weights of a model."""
        lstm = network.lstm
        embedding = network.embedding.weight.detach()
        layers = []
        for k in range(lstm.num_layers):
            bias = getattr(lstm, f"bias_ih_l{k}") + getattr(lstm, f"bias_hh_l{k}")
            seen, kept = getattr(lstm, f"weight_ih_l{k}"), getattr(lstm, f"weight_hh_l{k}")
            layers.append(LSTMWeights(Product(seen, bias), Product(kept)))
        small = embedding.shape[0] * 4 * lstm.hidden_size <= TABLE_LIMIT
        return cls(
            layers=tuple(layers),
            embedding=embedding,
            table=layers[0].seen(embedding) if small else None,
            prediction=Product(joint.pred.weight, joint.pred.bias),
            activation=joint.activation,
            output=Product(joint.output.weight, joint.output.bias),
            durations=torch.tensor(durations, device=embedding.device) if durations else None,
            longest=max(durations, default=1),
            blank=network.blank,
            ahead=torch.arange(LONGEST_BLOCK, device=embedding.device),
        )

    def recur(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """New hidden and cell state [B, H] of each layer after `tokens` [B], from those [L, B, H] before."""
        below = None
        for k, layer in enumerate(self.layers):
            if below is not None:
                gates = layer.seen(below)
            elif self.table is not None:
                gates = self.table.index_select(0, tokens)
            else:
                gates = layer.seen(self.embedding.index_select(0, tokens))
            gates += layer.kept(hidden[k])
            let_in, forget, candidate, let_out = gates.chunk(4, dim=1)
            state = torch.sigmoid(forget).mul_(cell[k])
            state.addcmul_(torch.sigmoid(let_in), torch.tanh(candidate))
            below = torch.tanh(state).mul_(torch.sigmoid(let_out))
            yield below, state


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
        """The state of some of the rows, whose indices are in `keep` [B']."""
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
) -> Said | None:
    """Move every row to its next token, or past `block` frames of blanks; updates `state` in place.

    With `fixed` the same operations run whatever the values are, as a CUDA graph needs; without it the prediction
    network is left out, and None returned, when no row found a token.
    """
    rows = state.time.shape[0]
    ahead = weights.ahead[:block]
    frames = state.time[:, None] + ahead
    lengths = state.lengths[:, None]
    inside = frames < lengths
    index = torch.minimum(frames, lengths - 1).clamp_(min=0).add_(state.offset[:, None])
    seen = state.frames.index_select(0, index.flatten()).view(rows, block, -1)
    meeting = weights.activation(seen.add_(state.prediction[:, None]))
    logits = weights.output(meeting.flatten(0, 1)).view(rows, block, -1)
    tokens = logits[..., : weights.blank + 1].argmax(dim=-1)
    going_on = (tokens == weights.blank).logical_and_(inside)
    durations = None
    if weights.durations is None:
        position = torch.where(going_on, block, ahead).amin(dim=1)
    else:
        durations = weights.durations[logits[..., weights.blank + 1 :].argmax(dim=-1)]
        position = _follow(torch.where(going_on, durations.clamp(min=1), 0), weights.longest)
    where = state.time + position
    found = (position < block).logical_and_(where < state.lengths)
    if not fixed and not bool(found.any()):
        state.time = where
        return None
    at = position.clamp_(max=block - 1)[:, None]
    chosen = tokens.gather(1, at).squeeze(1)
    lasting = torch.zeros_like(where) if durations is None else durations.gather(1, at).squeeze(1)
    _advance(state, found, where, lasting, max_symbols)
    _predict(weights, state, found, chosen)
    scores = logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[2])).squeeze(1)
    return Said(found, chosen, where, lasting, scores[:, : weights.blank + 1])


def _follow(hops: Tensor, longest: int) -> Tensor:
    """Where a walk from position 0 over `hops` [B, K] ends: on a hop of 0 or anywhere at or after K."""
    block = hops.shape[1]
    if block == 1:
        return hops[:, 0]
    target = F.pad(hops, (0, longest)) + torch.arange(block + longest, device=hops.device)
    for _ in range((block - 1).bit_length()):
        target = target.gather(1, target)
    return target[:, 0]


def _advance(state: GreedyState, found: Tensor, where: Tensor, lasting: Tensor, max_symbols: int) -> None:
    """Set time and the count of tokens at one frame; after `max_symbols` of them the frame is left."""
    count = state.symbols * (where == state.last_frame) + 1
    torch.where(found, count, state.symbols, out=state.symbols)
    torch.where(found, where, state.last_frame, out=state.last_frame)
    stuck = (lasting == 0).logical_and_(count >= max_symbols)
    torch.where(found, where + lasting + stuck, where, out=state.time)


def _predict(weights: GreedyWeights, state: GreedyState, found: Tensor, tokens: Tensor) -> None:
    """Bring the prediction state of the rows that found a token up to date."""
    said = found[:, None]
    hidden = state.hidden[-1]
    for k, (hidden, cell) in enumerate(weights.recur(tokens, state.hidden, state.cell)):
        torch.where(said, hidden, state.hidden[k], out=state.hidden[k])
        torch.where(said, cell, state.cell[k], out=state.cell[k])
    torch.where(said, weights.prediction(hidden), state.prediction, out=state.prediction)
