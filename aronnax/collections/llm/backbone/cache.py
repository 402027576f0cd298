"""What a backbone keeps between steps: keys and values of attention, states of recurrent layers, tables of positions.

Legend: `R` rows with room, `B` rows in use, `C` capacity, `H` heads of keys and values, `K` width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.cache import KeyValueCache, Mark, move_rows


@dataclass(frozen=True)
class CacheShape:
    """What one row needs."""

    layers: int
    """Attention layers."""
    heads: int
    """`H`."""
    width: int
    """`K`."""
    like: Tensor
    """Has the type and place of keys and values."""
    states: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    """Shape and type of each state of recurrent layers."""


@dataclass(frozen=True)
class StateMark(Mark):
    """A place to roll back to; states are overwritten step by step, so they are copied."""

    states: tuple[Tensor, ...]


class StepCache(KeyValueCache):
    """The cache of a backbone, all of it allocated once."""

    def __init__(
        self, steps: Any, shape: CacheShape, rows: int, capacity: int, tables: Tensor | None, beam: int = 1
    ) -> None:
        # A model without attention gets a layer nobody looks at, so that sizes have a place.
        layers, heads, width = (shape.layers, shape.heads, shape.width) if shape.layers else (1, 1, 1)
        super().__init__(layers, rows, capacity, heads, width, shape.like, beam)
        self.steps = steps
        """What made this cache and goes on with it."""
        self.states = [shape.like.new_zeros((rows, *size), dtype=dtype) for size, dtype in shape.states]
        """States of recurrent layers, each [R, ...]."""
        self.tables = tables
        """What depends on the position alone [..., C, K]; its place in memory is the cache's for CUDA graphs."""
        self.desk: Any = None
        """Where steps of a single row are computed, if there have been any."""

    def blank(self, rows: int, capacity: int, frames: int) -> StepCache:
        """An empty cache of these sizes for the same model."""
        made: StepCache = self.steps.cache(rows, capacity, self.beam)
        return made

    @torch.inference_mode()
    def repeat(self, times: int) -> None:
        """Make every row a group of `times` equal rows (beam search, several samples)."""
        super().repeat(times)
        if times > 1:
            self.states = [state.repeat_interleave(times, dim=0) for state in self.states]

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int]) -> None:
        """Row rows[i] becomes row i."""
        super().reorder(rows)
        move_rows(self.states, rows, None)

    def snapshot(self) -> StateMark:
        """Where the rows stand."""
        mark = super().snapshot()
        states = tuple(state[: self.rows].clone() for state in self.states)
        return StateMark(mark.lengths, mark.longest, mark.moves, states)

    @torch.inference_mode()
    def rollback(self, mark: Mark) -> None:
        """Go back to `mark`, exactly.

        Raises OptionError if rows were moved since.
        """
        assert isinstance(mark, StateMark)
        super().rollback(mark)
        for state, kept in zip(self.states, mark.states):
            state[: len(kept)].copy_(kept)

    @torch.inference_mode()
    def settle(self, other: KeyValueCache) -> None:
        """Move what is in use into the tensors of `other`, which has room for it, and use those from now on."""
        assert isinstance(other, StepCache)
        super().settle(other)
        for mine, theirs in zip(self.states, other.states):
            theirs[: self.rows].copy_(mine[: self.rows])
        self.states, self.tables = other.states, other.tables
