"""Batched greedy decoding of transducers.

Legend: `B` batch, `T` frames, `D` encoder width, `H` prediction width, `L` LSTM layers, `V` vocabulary (blank = V).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.transducer.graphs import GraphPool
from aronnax.collections.asr.transducer.greedy import (
    LONGEST_BLOCK,
    GreedyState,
    GreedyWeights,
    Said,
    greedy_step,
)
from aronnax.collections.asr.transducer.joint import Joint
from aronnax.collections.asr.transducer.prediction import PredictionNetwork
from aronnax.collections.common.nn.confidence import check_measure
from aronnax.collections.common.nn.confidence import confidence as measured
from aronnax.collections.common.nn.derived import Derived

GRAPH_BLOCK = 8
"""Frames looked at in one step inside a CUDA graph."""

FLUSH = 64
"""Steps whose results are collected before they are turned into lists."""


@dataclass(frozen=True)
class TransducerCarry:
    """What the next call needs to go on where this one stopped."""

    hidden: Tensor
    """Hidden states of the prediction network [L, B, H]."""
    cell: Tensor
    """Cell states [L, B, H]."""
    overshoot: Tensor
    """Frames [B] of the next call that the last step has already consumed (TDT)."""


class TransducerDecoder:
    """Greedy decoding of RNN-T (no durations) or TDT with the modules of a model; holds no state of a call."""

    def __init__(
        self, network: PredictionNetwork, joint: Joint, durations: tuple[int, ...], max_symbols: int
    ) -> None:
        self.network = network
        self.joint = joint
        self.durations = durations
        self.max_symbols = max_symbols
        self.cuda_graphs = True
        self._derived = Derived()

    def prepared(self) -> tuple[GreedyWeights, GraphPool]:
        """The tensors of a step and the graphs that read them, made anew only when a parameter has changed."""
        sources = [*self.network.parameters(), *self.joint.parameters()]
        found: tuple[GreedyWeights, GraphPool] = self._derived.get(
            sources, lambda: (GreedyWeights.of(self.network, self.joint, self.durations), GraphPool())
        )
        return found

    @torch.inference_mode()
    def __call__(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        confidence: str | None = "tsallis",
        carry: TransducerCarry | None = None,
    ) -> tuple[list[Hypothesis], TransducerCarry]:
        """Hypotheses of encoder states [B, T, D] with `lengths` [B], and the carry to go on from."""
        check_measure(confidence)
        with torch.autocast(states.device.type, enabled=False):
            weights, pool = self.prepared()
            state = self._start(weights, states, lengths, carry)
            book = _Book(states.shape[0], confidence, bool(self.durations))
            runner = None
            if self.cuda_graphs and states.is_cuda:
                runner = pool.take(weights, state, self.max_symbols, GRAPH_BLOCK)
            if runner is None:
                self._run(weights, state, book)
            else:
                for rows, said in runner.run(state):
                    book.add(rows, said)
                pool.give_back(runner)
            book.flush()
        return book.hypotheses, TransducerCarry(state.hidden, state.cell, (state.time - lengths).clamp(min=0))

    def _start(
        self, weights: GreedyWeights, states: Tensor, lengths: Tensor, carry: TransducerCarry | None
    ) -> GreedyState:
        batch, frames, _ = states.shape
        layers, width = len(weights.layers), weights.embedding.shape[1]
        frames_projected = self.joint.enc(states.to(weights.embedding.dtype)).flatten(0, 1)
        if carry is None:
            zeros = weights.embedding.new_zeros((layers, batch, width))
            first = torch.full((1,), weights.blank, device=states.device)
            hidden, cell = zeros.clone(), zeros
            for k, (h, c) in enumerate(weights.recur(first, zeros[:, :1], zeros[:, :1])):
                hidden[k], cell[k] = h, c
            time = torch.zeros_like(lengths)
        else:
            hidden, cell, time = carry.hidden.clone(), carry.cell.clone(), carry.overshoot.clone()
        return GreedyState(
            frames=frames_projected,
            offset=torch.arange(batch, device=states.device) * frames,
            lengths=lengths,
            time=time,
            hidden=hidden,
            cell=cell,
            prediction=weights.prediction(hidden[-1]),
            last_frame=torch.full_like(lengths, -1),
            symbols=torch.zeros_like(lengths),
        )

    def _run(self, weights: GreedyWeights, whole: GreedyState, book: _Book) -> None:
        """Step until every row of `whole` is done; rows that are done leave the batch."""
        first = block = 2 if self.durations else 4
        state = whole
        rows = torch.arange(whole.time.shape[0], device=whole.time.device)
        while True:
            active = state.time < state.lengths
            count = int(active.sum())
            if count < len(rows):
                if state is not whole:
                    _write_back(whole, state, rows)
                if not count:
                    return
                keep = active.nonzero().squeeze(1)
                state, rows = state.rows(keep), rows[keep]
            said = greedy_step(weights, state, block, self.max_symbols, fixed=False)
            if said is None:
                block = min(2 * block, LONGEST_BLOCK)
            else:
                book.add(rows, said)
                block = first


def _write_back(whole: GreedyState, part: GreedyState, rows: Tensor) -> None:
    """Write what became of some rows into the state of all."""
    whole.time[rows] = part.time
    whole.hidden[:, rows] = part.hidden
    whole.cell[:, rows] = part.cell


class _Book:
    """Collects what the steps say and turns it into hypotheses a few steps at a time."""

    def __init__(self, batch: int, measure: str | None, has_durations: bool) -> None:
        self.hypotheses = [Hypothesis() for _ in range(batch)]
        self.measure = measure
        self.has_durations = has_durations
        self.pages: list[tuple[Tensor, Said]] = []

    def add(self, rows: Tensor, said: Said) -> None:
        """Note one step of the given rows of the batch."""
        self.pages.append((rows, said))
        if len(self.pages) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write the noted steps into the hypotheses."""
        if not self.pages:
            return
        found = torch.cat([said.found for _, said in self.pages]).nonzero().squeeze(1)
        rows = torch.cat([rows for rows, _ in self.pages])
        columns = [
            rows,
            torch.cat([said.tokens for _, said in self.pages]),
            torch.cat([said.frames for _, said in self.pages]),
            torch.cat([said.durations for _, said in self.pages]),
        ]
        logits = torch.cat([said.logits for _, said in self.pages]).index_select(0, found).float()
        self.pages = []
        log_probs = torch.log_softmax(logits, dim=-1)
        chosen = torch.stack(columns)[:, found]
        scores = log_probs.gather(1, chosen[1][:, None]).squeeze(1).tolist()
        sureness = measured(log_probs, self.measure).tolist() if self.measure else None
        for k, (row, token, frame, duration) in enumerate(zip(*chosen.tolist())):
            hypothesis = self.hypotheses[row]
            hypothesis.tokens.append(token)
            hypothesis.frames.append(frame)
            hypothesis.durations.append(duration if self.has_durations else 1)
            hypothesis.score += scores[k]
            if sureness is not None:
                hypothesis.confidences.append(sureness[k])
