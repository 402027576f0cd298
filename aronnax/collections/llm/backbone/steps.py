"""What decodes a backbone: prefill of the prompts, then a position at a time. One class a family implements it.

Legend: `B` rows, `U` positions, `D` width, `V` vocabulary, `L` rows that end in a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.generation.graphs import StepPool, StepRunner
from aronnax.collections.llm.backbone.cache import StepCache
from aronnax.collections.llm.backbone.padding import Unpadded


class Steps(ABC):
    """Prefill and step of one model with one choice of adapters; holds no state of a call."""

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

    def best(self, embeddings: Tensor, cache: Any) -> Tensor:
        """The best tokens [B] of these scores; where it is faster, not all of them are computed."""
        return self.step(embeddings, cache).max(dim=-1).indices


class FixedSteps(Steps):
    """Steps whose `run` asks only tensors where a row stands, so that a CUDA graph can replay it."""

    longest: int
    """Most positions the model was made for."""

    def __init__(self) -> None:
        self.pool = StepPool()

    @abstractmethod
    def cache(self, rows: int, capacity: int, beam: int = 1) -> StepCache:
        """An empty cache."""

    @abstractmethod
    def chunk(self, embeddings: Tensor, packed: Unpadded, cache: StepCache) -> Tensor:
        """Hidden states [L, D] of the last positions in a chunk of prompts [B, U, D]."""

    @abstractmethod
    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] before the last norm -> [..., V]."""

    @abstractmethod
    def run(self, embeddings: Tensor, cache: StepCache, rows: int, window: int) -> Tensor:
        """One step of the first `rows` rows, looking back at `window` positions at most: scores [B, V]."""

    @torch.inference_mode()
    def prefill(
        self, embeddings: Tensor, lengths: Tensor, capacity: int, chunk: int | None
    ) -> tuple[Tensor, StepCache]:
        """Scores [B, V] after prompts [B, U, D] padded on the right, and their cache of `capacity` positions."""
        known = lengths.tolist()
        longest = max(known)
        cache = self.cache(len(known), max(capacity, embeddings.shape[1]))
        last = embeddings.new_zeros((len(known), embeddings.shape[2]))
        with torch.autocast(embeddings.device.type, enabled=False):
            for start in range(0, longest, chunk or longest):
                part = embeddings[:, start : min(start + (chunk or longest), longest)]
                packed = Unpadded(known, start, part.shape[1], embeddings.device)
                last.index_copy_(0, packed.ended, self.chunk(part, packed, cache))
            cache.lengths.copy_(lengths)
            cache.longest = longest
            cache.even = min(known) == longest
            return self.scores(last), cache

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use."""
        scores = self.run(embeddings, cache, cache.rows, min(cache.longest + 1, cache.capacity))
        cache.longest = min(cache.longest + 1, cache.capacity)
        return scores

    def runner(self, cache: StepCache) -> StepRunner:
        """Buffers of fixed sizes for one call; give them back to `pool`."""
        return self.pool.take(self.run, cache, self.longest)
