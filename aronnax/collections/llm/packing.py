"""Sequences of a padded batch put one after another into fewer, fuller rows.

Shapes: B sequences of at most U positions, R rows of P positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.llm.loss import IGNORED


@dataclass(frozen=True)
class Packed:
    """Rows of one or more sequences each, padded on the right."""

    embeddings: Tensor
    """[R, P, D], zeros in the padding."""
    labels: Tensor
    """int64 [R, P], IGNORED in the padding."""
    segments: Tensor
    """Which sequence a position belongs to, int64 [R, P]; -1 in the padding."""


def pack(embeddings: Tensor, lengths: Tensor, labels: Tensor, room: int) -> Packed:
    """Sequences [B, U, D] of lengths [B], padded on the right, in rows of `room` positions or the longest's length.

    They are as few rows as first fit makes of that room, and no wider than these need to be. `labels` [B, U] move
    with their positions: what a position has to say is said in its own sequence alone.
    """
    sizes: list[int] = lengths.tolist()
    rows = shortest_rows(sizes, max(room, *sizes))

    def joined(padded: Tensor, filling: float) -> Tensor:
        parts = [torch.cat([padded[one, : sizes[one]] for one in row]) for row in rows]
        return pad_sequence(parts, batch_first=True, padding_value=filling)

    numbers = torch.arange(len(sizes), device=labels.device)[:, None].expand_as(labels)
    return Packed(joined(embeddings, 0.0), joined(labels, IGNORED), joined(numbers, -1))


def shortest_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which sequences share a row: as many rows as first fit makes of `room`, of the least room that takes no more.

    >>> shortest_rows([4, 4, 4, 4, 4], room=12)
    [[0, 1, 2], [3, 4]]
    >>> shortest_rows([4, 4, 4, 4], room=12)
    [[0, 1], [2, 3]]
    """
    rows = first_fit_decreasing(lengths, room)
    least = max(*lengths, -(-sum(lengths) // len(rows)))
    while least < room:
        middle = (least + room) // 2
        tried = first_fit_decreasing(lengths, middle)
        if len(tried) <= len(rows):
            rows, room = tried, middle
        else:
            least = middle + 1
    return rows


def first_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which sequences share a row of `room` positions: the longest first, each in the first row that has room for it.

    One that is longer than `room` has a row of its own.

    >>> first_fit_decreasing([3, 9, 4, 6, 2], room=10)
    [[1], [3, 2], [0, 4]]
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for one in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        place = next((place for place, free in enumerate(left) if free >= lengths[one]), len(rows))
        if place == len(rows):
            rows.append([])
            left.append(room)
        rows[place].append(one)
        left[place] -= lengths[one]
    return rows
