"""A backbone bound to prompts, which the decoding engine drives.

Legend: `B` rows, `U` positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.generation.graphs import StepRunner
from aronnax.collections.llm.backbone.steps import FixedSteps, Steps
from aronnax.core.errors import OptionError


class BoundDecoder:
    """A `Decoder` of prompts given as embeddings [B, U, D], padded on the right to `lengths` [B]."""

    def __init__(
        self,
        steps: Steps,
        embed: Callable[[Tensor], Tensor],
        embeddings: Tensor,
        lengths: Tensor,
        chunk: int | None,
        fixed: bool | None,
    ) -> None:
        self.steps = steps
        self.embed = embed
        self.embeddings = embeddings
        self.lengths = lengths
        self.chunk = chunk
        self.fixed = fixed
        self._runner: StepRunner | None = None

    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, Any]:
        """Scores [B, V] after the prompts, and a cache for `capacity` - P tokens more than they have.

        Of `tokens` [B, P] only the size counts: the prompts are known already. OptionError if there are none.
        """
        if not len(self.lengths):
            raise OptionError("there are no prompts to compute: give embeddings of one row at least")
        room = self.embeddings.shape[1] + capacity - tokens.shape[1]
        return self.steps.prefill(self.embeddings, self.lengths, room, self.chunk)

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Scores [B, V] after one token [B] more of each row in use."""
        return self.advance(self.embed(tokens), cache)

    @torch.inference_mode()
    def best(self, tokens: Tensor, cache: Any) -> Tensor:
        """The best tokens [B] of these scores."""
        embeddings = self.embed(tokens)
        if self._is_fixed(embeddings):
            return self.advance(embeddings, cache).max(dim=-1).indices
        return self.steps.best(embeddings, cache)

    def _is_fixed(self, embeddings: Tensor) -> bool:
        fixed = embeddings.is_cuda if self.fixed is None else self.fixed
        return fixed and isinstance(self.steps, FixedSteps)

    @torch.inference_mode()
    def advance(self, embeddings: Tensor, cache: Any) -> Tensor:
        """Scores [B, V] after one position [B, D] more of each row in use."""
        if not self._is_fixed(embeddings):
            return self.steps.step(embeddings, cache)
        assert isinstance(self.steps, FixedSteps)
        if self._runner is None:
            self._runner = self.steps.runner(cache)
        scores = self._runner.step(embeddings, cache)
        cache.longest = min(cache.longest + 1, cache.capacity)
        return scores

    def release(self, cache: Any) -> None:
        """Give the fixed buffers, if any, to later calls."""
        if self._runner is not None:
            self._runner.pool.give_back(self._runner)
            self._runner = None
