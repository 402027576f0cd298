"""What decodes a backbone: prefill of the prompts, then a position at a time. One class a family implements it.

Legend: `B` rows, `U` positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.generation.graphs import StepPool, StepRunner


class Steps(ABC):
    """Prefill and step of one model with one choice of adapters; holds no state of a call."""

    fixed = False
    """Whether `run` is made for buffers of fixed sizes, and so for CUDA graphs."""

    @abstractmethod
    def prefill(
        self, embeddings: Tensor, lengths: Tensor, capacity: int, chunk: int | None
    ) -> tuple[Tensor, Any]:
        """Scores [B, V] after prompts [B, U, D] padded on the right, and their cache of `capacity` positions.

        At most `chunk` positions are computed at a time.
        """

    @abstractmethod
    def step(self, embeddings: Tensor, cache: Any) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use; the cache moves on in place."""


class FixedSteps(Steps):
    """Steps whose `run` asks only tensors where a row stands, so that a CUDA graph can replay it."""

    fixed = True
    longest: int
    """Most positions the model was made for."""

    def __init__(self) -> None:
        self.pool = StepPool()

    @abstractmethod
    def run(self, embeddings: Tensor, cache: Any, rows: int, window: int) -> Tensor:
        """One step of the first `rows` rows, looking back at `window` positions at most: scores [B, V]."""

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: Any) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use."""
        scores = self.run(embeddings, cache, cache.rows, min(cache.longest + 1, cache.capacity))
        cache.longest = min(cache.longest + 1, cache.capacity)
        return scores

    def runner(self, cache: Any) -> StepRunner:
        """Buffers of fixed sizes for one call; give them back to `pool`."""
        return self.pool.take(self.run, cache, self.longest)
