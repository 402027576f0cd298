"""The greedy step replayed as a CUDA graph, with reused buffers, and eager decoding where capture fails.

Legend: `B` rows, `S` steps of one replay, `V` vocabulary.
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aronnax.collections.asr.transducer.greedy import GreedyState, GreedyWeights, Said, greedy_step

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

STEPS = 8
"""Steps of one replay: the host looks only between replays whether all rows are done."""

IDLE = 4
"""Captured graphs kept for later calls."""


def _power_of_two(number: int, least: int) -> int:
    return max(least, 1 << (number - 1).bit_length())


class StepRunner:
    """Static buffers for up to so many rows and frames, and the graph of `STEPS` steps on them.

    On a device without CUDA graphs the very same operations run one by one: that is how tests reach them.
    """

    def __init__(self, weights: GreedyWeights, like: GreedyState, max_symbols: int, block: int) -> None:
        self.weights = weights
        self.max_symbols = max_symbols
        self.block = block
        self.rows, self.frames = self.capacity(like)
        layers, _, width = like.hidden.shape
        whole = like.time.new_zeros(self.rows)
        self.state = GreedyState(
            frames=like.frames.new_zeros((self.frames, like.frames.shape[1])),
            offset=whole,
            lengths=whole.clone(),
            time=whole.clone(),
            hidden=like.hidden.new_zeros((layers, self.rows, width)),
            cell=like.cell.new_zeros((layers, self.rows, width)),
            prediction=like.prediction.new_zeros((self.rows, like.prediction.shape[1])),
            last_frame=whole.clone(),
            symbols=whole.clone(),
        )
        self.page: list[Said] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        if like.frames.is_cuda:
            self._capture()

    @staticmethod
    def capacity(state: GreedyState) -> tuple[int, int]:
        """Rows and frames of the buffers that fit `state`."""
        return _power_of_two(state.time.shape[0], 1), _power_of_two(state.frames.shape[0], 1024)

    def _steps(self) -> None:
        self.page = []
        for _ in range(STEPS):
            said = greedy_step(self.weights, self.state, self.block, self.max_symbols, fixed=True)
            assert said is not None
            self.page.append(said)

    def _capture(self) -> None:
        """Record the steps; every row is done (length 0) meanwhile, so nothing is said."""
        stream = torch.cuda.Stream(self.state.frames.device)
        stream.wait_stream(torch.cuda.current_stream(self.state.frames.device))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            self._steps()
        torch.cuda.current_stream(self.state.frames.device).wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._steps()
        self.graph = graph

    def run(self, state: GreedyState) -> Iterator[tuple[Tensor, Said]]:
        """Decode from `state`, yielding rows and what they said; `state` then holds where they ended."""
        batch, frames = state.time.shape[0], state.frames.shape[0]
        own = self.state
        for name in ("offset", "lengths", "time", "prediction", "last_frame", "symbols"):
            getattr(own, name)[:batch].copy_(getattr(state, name))
        own.frames[:frames].copy_(state.frames)
        own.hidden[:, :batch].copy_(state.hidden)
        own.cell[:, :batch].copy_(state.cell)
        own.lengths[batch:].zero_()
        own.time[batch:].zero_()
        own.offset[batch:].zero_()
        rows = torch.arange(self.rows, device=own.time.device)
        while bool((own.time < own.lengths).any()):
            if self.graph is None:
                self._steps()
            else:
                self.graph.replay()
            for said in self.page:
                yield rows, Said(*(tensor.clone() for tensor in vars(said).values()))
        for name in ("time", "prediction"):
            getattr(state, name).copy_(getattr(own, name)[:batch])
        state.hidden.copy_(own.hidden[:, :batch])
        state.cell.copy_(own.cell[:, :batch])


class GraphPool:
    """Runners that wait for the next call of their size; one call at a time owns a runner."""

    def __init__(self) -> None:
        self._idle: list[StepRunner] = []
        self._lock = Lock()
        self.refusal: str | None = None
        """Why graphs cannot be captured here, once that is known."""

    def take(
        self, weights: GreedyWeights, state: GreedyState, max_symbols: int, block: int
    ) -> StepRunner | None:
        """A runner that fits `state`, captured now if none waits; None, with a logged reason, if that fails."""
        size = StepRunner.capacity(state)
        with self._lock:
            for runner in self._idle:
                if (runner.rows, runner.frames) == size:
                    self._idle.remove(runner)
                    return runner
            if self.refusal is not None:
                return None
        try:
            return StepRunner(weights, state, max_symbols, block)
        except RuntimeError as error:
            self.refusal = str(error).splitlines()[0]
            logger.warning("CUDA graphs are off, transducers decode step by step: %s", self.refusal)
            return None

    def give_back(self, runner: StepRunner) -> None:
        """Keep the runner for a later call; the one unused for longest goes when there are too many."""
        with self._lock:
            self._idle = [*self._idle, runner][-IDLE:]
