"""What attention keeps between the steps of decoding: its own keys and values, and those of an encoder.

Legend: `R` rows with room, `B` rows in use (the first ones), `G` groups (a row of the caller with its `beam` rows),
`C` capacity, `W` window looked at (at most C), `T` encoder frames, `H` heads, `K` width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aronnax.core.errors import OptionError


def move_rows(tensors: Sequence[Tensor], rows: Sequence[int], length: int | None) -> None:
    """Put row rows[i] of each tensor into place i, copying only what moves, up to `length` of dimension 1."""
    places = [place for place, row in enumerate(rows) if place != row]
    if not places or not tensors:
        return
    into = torch.tensor(places, device=tensors[0].device)
    source = torch.tensor([rows[place] for place in places], device=tensors[0].device)
    for tensor in tensors:
        part = tensor if length is None else tensor[:, :length]
        part.index_copy_(0, into, part.index_select(0, source))


@dataclass
class CrossMemory:
    """Keys and values [G, H, T, K] of encoder states, a pair a layer, computed once, shared by a group's rows."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor | None
    """Added to the scores [G, 1, 1, T]; None where no row is padded."""

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order, in the first places."""
        move_rows([*self.keys, *self.values, *([] if self.bias is None else [self.bias])], groups, None)


@dataclass(frozen=True)
class Mark:
    """A place to roll back to."""

    lengths: Tensor
    longest: int
    moves: int


class KeyValueCache:
    """Keys and values [R, C, H, K] of every layer, allocated once.

    A row's positions at and beyond its length are hidden by `bias` and overwritten later, so going back is setting
    `lengths` back.
    """

    def __init__(
        self, layers: int, rows: int, capacity: int, heads: int, width: int, like: Tensor, beam: int = 1
    ) -> None:
        shape = (rows, capacity, heads, width)
        # Zeros, because a hidden position still multiplies its value by nought, which NaN would survive.
        self.keys = [like.new_zeros(shape) for _ in range(layers)]
        self.values = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=like.device)
        """Tokens of each row with room [R]; use `lengths[:rows]`."""
        self.rows = rows
        """Rows in use."""
        self.beam = beam
        """Rows of a group."""
        self.longest = 0
        """No row in use is longer; known without asking the device."""
        self.even = False
        """Whether all rows in use are known to be equally long."""
        self.memory: CrossMemory | None = None
        self._moves = 0

    @property
    def capacity(self) -> int:
        """Most positions of a row."""
        return self.keys[0].shape[1]

    @property
    def room(self) -> int:
        """Most rows."""
        return self.keys[0].shape[0]

    def blank(self, rows: int, capacity: int, frames: int) -> KeyValueCache:
        """An empty cache of these sizes for the same layers, with a memory of `frames` if there are any."""
        like = self.keys[0]
        heads, width = like.shape[2:]
        other = KeyValueCache(len(self.keys), rows, capacity, heads, width, like, self.beam)
        if frames:
            shape = (rows // self.beam, heads, frames, width)
            other.memory = CrossMemory(
                [like.new_zeros(shape) for _ in self.keys],
                [like.new_zeros(shape) for _ in self.keys],
                like.new_zeros((shape[0], 1, 1, frames)),
            )
        return other

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the first positions of every row: [B, U, H, K]."""
        rows, tokens = keys.shape[:2]
        self.keys[layer][:rows, :tokens] = keys
        self.values[layer][:rows, :tokens] = values

    def write(self, layer: int, rows: int, index: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write position lengths[b] of the first rows, keys and values [B, H, K]; `index` is 0, 1, ... B - 1."""
        places = (index, self.lengths[:rows])
        self.keys[layer].index_put_(places, keys)
        self.values[layer].index_put_(places, values)

    def bias(self, rows: int, window: int) -> Tensor | None:
        """What hides the positions after the one being written: [B, 1, 1, W], or None if there are none."""
        like = self.keys[0]
        if self.even and window == self.longest + 1:
            return None
        hidden = torch.arange(window, device=like.device) > self.lengths[:rows, None]
        zeros = like.new_zeros((rows, window))
        return zeros.masked_fill_(hidden, -torch.inf)[:, None, None, :]

    def advance(self, rows: int) -> None:
        """One position further; full rows stay, so that rows nobody looks at any more can go on."""
        self.lengths[:rows].add_(1).clamp_(max=self.capacity - 1)

    @torch.inference_mode()
    def repeat(self, times: int) -> None:
        """Make every row a group of `times` equal rows (beam search, several samples)."""
        if times == 1:
            return
        for layer in range(len(self.keys)):
            self.keys[layer] = self.keys[layer].repeat_interleave(times, dim=0)
            self.values[layer] = self.values[layer].repeat_interleave(times, dim=0)
        self.lengths = self.lengths.repeat_interleave(times)
        self.rows *= times
        self.beam *= times
        self._moves += 1

    @torch.inference_mode()
    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order; each may be named once."""
        if self.memory is not None:
            self.memory.select(groups)
        beam = self.beam
        self.reorder([group * beam + k for group in groups for k in range(beam)])
        self.rows = len(groups) * beam

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int]) -> None:
        """Row rows[i] becomes row i; every row stays within its group, because groups share the memory."""
        move_rows([*self.keys, *self.values], rows, self.longest)
        move_rows([self.lengths], rows, None)
        self._moves += 1

    def snapshot(self) -> Mark:
        """Where the rows stand."""
        return Mark(self.lengths.clone(), self.longest, self._moves)

    @torch.inference_mode()
    def rollback(self, mark: Mark) -> None:
        """Go back to `mark`, exactly.

        Raises OptionError if rows were moved since.
        """
        if mark.moves != self._moves:
            raise OptionError(
                "the cache's rows were moved since the snapshot: roll back before selecting rows"
            )
        # Since the mark the rows may have been settled into a larger cache.
        self.lengths[: len(mark.lengths)].copy_(mark.lengths)
        self.longest = mark.longest

    @torch.inference_mode()
    def settle(self, other: KeyValueCache) -> None:
        """Move what is in use into the tensors of `other`, which has room for it, and use those from now on."""
        rows, longest = self.rows, self.longest
        for mine, theirs in zip([*self.keys, *self.values], [*other.keys, *other.values]):
            theirs[:rows, :longest].copy_(mine[:rows, :longest])
        other.lengths.zero_()
        other.lengths[:rows].copy_(self.lengths[:rows])
        if self.memory is not None and other.memory is not None:
            _settle_memory(self.memory, other.memory, rows // self.beam)
        self.keys, self.values, self.lengths, self.memory = (
            other.keys,
            other.values,
            other.lengths,
            other.memory,
        )


def _settle_memory(memory: CrossMemory, other: CrossMemory, groups: int) -> None:
    frames = memory.keys[0].shape[2]
    for mine, theirs in zip([*memory.keys, *memory.values], [*other.keys, *other.values]):
        theirs[:groups, :, :frames].copy_(mine[:groups])
    assert other.bias is not None
    other.bias.fill_(-torch.inf)
    # Rows not in use look at something, or they would give NaN.
    other.bias[..., 0] = 0.0
    other.bias[:groups, ..., :frames] = 0.0 if memory.bias is None else memory.bias[:groups]
