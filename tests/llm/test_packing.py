"""Sequences that share rows: which ones, and what becomes of them."""

from __future__ import annotations

import random

import pytest
import torch

from aronnax.collections.llm.packing import first_fit_decreasing, pack, shortest_rows


@pytest.mark.parametrize(
    ("lengths", "room", "rows"),
    [
        ([3, 9, 4, 6, 2], 10, [[1], [3, 2], [0, 4]]),
        ([5, 5, 5, 5], 10, [[0, 1], [2, 3]]),
        ([4, 4, 4], 4, [[0], [1], [2]]),
        ([12, 3, 4], 10, [[0], [2, 1]]),
        ([7], 1, [[0]]),
        ([], 10, []),
    ],
)
def test_the_longest_come_first_each_where_there_is_room(
    lengths: list[int], room: int, rows: list[list[int]]
) -> None:
    assert first_fit_decreasing(lengths, room) == rows


def test_every_sequence_has_one_place_and_no_two_rows_would_fit_into_one() -> None:
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 30))]
        room = draw.randint(40, 90)
        rows = first_fit_decreasing(lengths, room)
        assert sorted(one for row in rows for one in row) == list(range(len(lengths)))
        sums = sorted(sum(lengths[one] for one in row) for row in rows)
        assert sums[-1] <= room
        assert len(sums) == 1 or sums[0] + sums[1] > room


def test_rows_are_as_few_and_no_longer_than_needed() -> None:
    draw = random.Random(0)
    for _ in range(100):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 30))]
        room = draw.randint(40, 200)
        rows, first = shortest_rows(lengths, room), first_fit_decreasing(lengths, room)
        assert sorted(one for row in rows for one in row) == list(range(len(lengths)))
        longest = max(sum(lengths[one] for one in row) for row in rows)
        assert len(rows) == len(first)
        assert longest <= max(sum(lengths[one] for one in row) for row in first)
    assert sorted(map(len, shortest_rows([45] * 23, 512))) == [7, 8, 8]


def test_sequences_keep_their_positions_and_labels() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([2, 5, 3, 1])
    embeddings, labels = torch.randn(4, 5, 8), torch.randint(50, (4, 5))
    packed = pack(embeddings, lengths, labels, room=6)
    assert packed.segments.tolist() == [[1, 1, 1, 1, 1, 3], [2, 2, 2, 0, 0, -1]]
    for one, length in enumerate(lengths.tolist()):
        assert torch.equal(packed.embeddings[packed.segments == one], embeddings[one, :length])
        assert torch.equal(packed.labels[packed.segments == one], labels[one, :length])
    padding = packed.segments == -1
    assert (packed.labels[padding] == -100).all()
    assert not packed.embeddings[padding].any()


def test_rows_are_no_wider_than_what_they_hold() -> None:
    lengths = torch.tensor([4, 2])
    assert pack(torch.zeros(2, 4, 3), lengths, torch.zeros(2, 4).long(), room=100).labels.shape == (1, 6)
    assert pack(torch.zeros(2, 4, 3), lengths, torch.zeros(2, 4).long(), room=1).labels.shape == (2, 4)
