"""What each position of a conversation sees, against loops over turns."""

from __future__ import annotations

import random

import pytest
import torch

from aronnax.collections.speechlm.bestow.sight import AUDIO, next_tokens, remembered, sight, text_of
from aronnax.collections.speechlm.bestow.waitk import EVERYTHING

BATCHES = 40


def conversation(rng):
    """Turns of (prompt ids with places, answer ids), the last maybe unanswered."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        prompt = [rng.choice([AUDIO, *range(1, 9)]) for _ in range(rng.randint(1, 5))]
        turns.append((prompt, [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]))
    if rng.random() < 0.5:
        turns[-1] = (turns[-1][0], [])
    return turns


def by_turns(turns, frames, k, stride, given):
    """Ids, learned and frames seen of the text that is left, written out turn by turn."""
    ids, learned, seen = [], [], []
    heard, audio = 0, 0
    for prompt, answer in turns:
        earlier = heard
        for token in prompt:
            if token == AUDIO:
                heard += frames[audio]
                audio += 1
                continue
            ids.append(token)
            learned.append(False)
            seen.append(min(heard, earlier + k * stride))
        for place, token in enumerate(answer):
            ids.append(token)
            learned.append(True)
            seen.append(min(heard, earlier + (k + max(0, place + 1 - given)) * stride))
    return ids, learned, seen


def padded(rows, value):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


@pytest.mark.parametrize("given", [0, 2])
@pytest.mark.parametrize("k", [1, 2, EVERYTHING])
def test_positions_see_what_their_turn_lets_them(k, given):
    rng = random.Random(k)
    for _ in range(BATCHES):
        batch = [conversation(rng) for _ in range(3)]
        flat = [[token for prompt, answer in turns for token in prompt + answer] for turns in batch]
        marks = [
            [mark for prompt, answer in turns for mark in [False] * len(prompt) + [True] * len(answer)]
            for turns in batch
        ]
        counts = [row.count(AUDIO) for row in flat]
        frames = [rng.randint(1, 9) for _ in range(sum(counts))]
        lengths = torch.tensor([len(row) for row in flat])
        text = text_of(padded(flat, AUDIO), lengths, padded(marks, True), given)
        audio = [torch.full((size, 2), float(number)) for number, size in enumerate(frames)]
        memory, ends = remembered(audio, counts, torch.zeros(1, 2))
        seen = sight(text, ends, torch.full((3,), k), 2)
        start = 0
        for row, turns in enumerate(batch):
            mine = frames[start : start + counts[row]]
            ids, learned, wanted = by_turns(turns, mine, k, 2, given)
            length = len(ids)
            assert int(text.lengths[row]) == length
            assert text.ids[row, :length].tolist() == ids
            assert text.learned[row].tolist() == [*learned, *[False] * (text.ids.shape[1] - length)]
            assert seen[row, :length].tolist() == wanted
            assert int(ends[row, -1]) == sum(mine)
            said = [start + number for number, count in enumerate(mine) for _ in range(count)]
            assert memory[row, : sum(mine), 0].tolist() == said
            assert (memory[row, sum(mine) :] == 0).all()
            start += counts[row]


def test_a_position_says_the_learned_token_after_it():
    ids, learned = torch.tensor([[AUDIO, 5, 6, 7, 8, 9]]), torch.tensor([[0, 0, 0, 1, 1, 0]]).bool()
    text = text_of(ids, torch.tensor([6]), learned)
    assert text.ids.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert next_tokens(text).tolist() == [[-100, 7, 8, -100, -100, -100]]


def test_a_batch_may_hold_no_recording():
    text = text_of(torch.tensor([[5, 6]]), torch.tensor([2]), torch.tensor([[False, True]]))
    memory, ends = remembered([], [0], torch.zeros(1, 4))
    assert memory.shape == (1, 0, 4)
    assert sight(text, ends, torch.tensor([1]), 4).tolist() == [[0, 0]]
