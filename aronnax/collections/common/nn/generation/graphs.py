"""The one-token step in buffers of fixed sizes, replayed as a CUDA graph where there is one.

Sizes are powers of two: of rows, of positions looked at, of encoder frames. Each pair of rows and positions gets its
own graph, captured when first met; all graphs of a runner share one pool of memory. On a device without CUDA graphs,
or where a capture fails (said in the log and in `StepPool.refusal`), the very same function runs on the same buffers.

Legend: `B` rows, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.cache import KeyValueCache

logger = logging.getLogger(__name__)

Step = Callable[[Tensor, Any, int, int], Tensor]
"""(tokens [B] or embeddings [B, D], cache, rows, window) -> scores [B, V]."""

LEAST_WINDOW = 64
LEAST_FRAMES = 128
IDLE = 2
"""Runners kept for later calls."""


def power_of_two(number: int, least: int = 1) -> int:
    """The smallest power of two that is at least `number` and `least`."""
    return max(least, 1 << (number - 1).bit_length())


class StepRunner:
    """Static buffers for one call at a time, and the graphs that run in them."""

    def __init__(
        self, step: Step, cache: KeyValueCache, rows: int, capacity: int, frames: int, pool: StepPool
    ):
        self.size = (rows, capacity, frames, cache.beam)
        self.run = step
        self.pool = pool
        self.cache = cache.blank(rows, capacity, frames)
        self.inputs: Tensor | None = None
        """What the step is given, made when first seen: tokens or embeddings of all rows."""
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.adopted: KeyValueCache | None = None

    @staticmethod
    def sizes(cache: KeyValueCache, limit: int) -> tuple[int, int, int, int]:
        """Rows, capacity, frames and beam of the buffers that fit `cache`, none longer than `limit`."""
        groups = power_of_two(cache.rows // cache.beam)
        capacity = max(cache.capacity, min(limit, power_of_two(cache.capacity, LEAST_WINDOW)))
        frames = 0
        if cache.memory is not None:
            frames = power_of_two(cache.memory.keys[0].shape[2], LEAST_FRAMES)
        return groups * cache.beam, capacity, frames, cache.beam

    def step(self, inputs: Tensor, cache: KeyValueCache) -> Tensor:
        """Scores [B, V] after tokens [B] or embeddings [B, D]; the first call moves the cache into the buffers."""
        if self.adopted is not cache:
            cache.settle(self.cache)
            self.adopted = cache
        rows = power_of_two(cache.rows // cache.beam) * cache.beam
        window = min(cache.capacity, power_of_two(cache.longest + 1, LEAST_WINDOW))
        if self.inputs is None:
            self.inputs = inputs.new_zeros((self.size[0], *inputs.shape[1:]))
        self.inputs[: cache.rows].copy_(inputs)
        graph = self._graph(self.inputs[:rows], window) if inputs.is_cuda else None
        if graph is None:
            return self.run(self.inputs[:rows], self.cache, rows, window)[: cache.rows]
        graph[0].replay()
        return graph[1][: cache.rows].clone()

    def _graph(self, inputs: Tensor, window: int) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        rows = len(inputs)
        found = self.graphs.get((rows, window))
        if found is not None or self.pool.refusal is not None:
            return found
        mark = self.cache.snapshot()
        try:
            found = self.graphs[rows, window] = self._capture(inputs, window)
        except RuntimeError as error:
            self.pool.refuse(str(error).splitlines()[0])
        # The trial run moved the rows on.
        self.cache.rollback(mark)
        return found

    def _capture(self, inputs: Tensor, window: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        device, rows = inputs.device, len(inputs)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self.run(inputs, self.cache, rows, window)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        shared = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=shared, stream=stream, capture_error_mode="thread_local"):
            scores = self.run(inputs, self.cache, rows, window)
        return graph, scores


class StepPool:
    """Runners that wait for the next call of their size; one call at a time owns a runner."""

    def __init__(self) -> None:
        self._idle: list[StepRunner] = []
        self._lock = Lock()
        self.refusal: str | None = None
        """Why graphs cannot be captured here, once that is known."""

    def take(self, step: Step, cache: KeyValueCache, limit: int) -> StepRunner:
        """A runner whose buffers fit `cache`, made now if none waits."""
        size = StepRunner.sizes(cache, limit)
        with self._lock:
            for runner in self._idle:
                if runner.size == size and runner.cache.lengths.device == cache.lengths.device:
                    self._idle.remove(runner)
                    return runner
        rows, capacity, frames, _ = size
        return StepRunner(step, cache, rows, capacity, frames, self)

    def give_back(self, runner: StepRunner) -> None:
        """Keep the runner for a later call; the one unused for longest goes when there are too many."""
        runner.adopted = None
        with self._lock:
            self._idle = [*self._idle, runner][-IDLE:]

    def refuse(self, reason: str) -> None:
        """Note why graphs are off, and say it once."""
        if self.refusal is None:
            logger.warning("CUDA graphs are off, text is decoded step by step: %s", reason)
        self.refusal = reason
