"""Recordings take their places among the words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aronnax.collections.llm.chat.tokenizer import AUDIO
from aronnax.collections.llm.loss import IGNORED
from aronnax.collections.speechlm.salm.splice import next_tokens, splice
from aronnax.core.errors import OptionError

# One recording at the start, in the middle and at the end; two beside each other; none.
ROWS = [[AUDIO, 5, 6], [5, 6, AUDIO, 7], [8, AUDIO], [4, AUDIO, AUDIO, 9, 3], [1, 2]]
LEARNED = [[0, 1, 1], [0, 0, 0, 1], [0, 0], [0, 0, 0, 1, 1], [0, 1]]
FRAMES = [2, 3, 1, 4, 2]


def _batch() -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    torch.manual_seed(0)
    lengths = torch.tensor([len(row) for row in ROWS])
    ids = torch.full((len(ROWS), 6), 0)
    learned = torch.zeros(len(ROWS), 6, dtype=torch.bool)
    for row, values in enumerate(ROWS):
        ids[row, : len(values)] = torch.tensor(values)
        learned[row, : len(values)] = torch.tensor(LEARNED[row], dtype=torch.bool)
    frames = [torch.randn(count, 4) for count in FRAMES]
    return ids, lengths, torch.randn(len(ROWS), 6, 4), frames, learned


def _by_hand(words: Tensor, frames: list[Tensor]) -> tuple[list[Tensor], list[list[int]]]:
    rest = iter(frames)
    rows, targets = [], []
    for row, values in enumerate(ROWS):
        pieces, labels = [], []
        for place, value in enumerate(values):
            piece = next(rest) if value == AUDIO else words[row, place : place + 1]
            pieces.append(piece)
            labels += (
                [IGNORED] * len(piece) if value == AUDIO else [value if LEARNED[row][place] else IGNORED]
            )
        rows.append(torch.cat(pieces))
        targets.append(labels)
    return rows, targets


@pytest.mark.parametrize("left", [False, True])
def test_every_row_holds_its_words_and_frames_in_order(left: bool) -> None:
    ids, lengths, words, frames, learned = _batch()
    spliced = splice(ids, lengths, words, frames, learned=learned, left_padded=left)
    rows, targets = _by_hand(words, frames)
    assert spliced.lengths.tolist() == [len(row) for row in rows]
    assert spliced.targets is not None
    width = spliced.embeddings.shape[1]
    for row, (wanted, labels) in enumerate(zip(rows, targets)):
        inside = slice(width - len(wanted), width) if left else slice(0, len(wanted))
        assert torch.equal(spliced.embeddings[row, inside], wanted)
        assert spliced.targets[row, inside].tolist() == labels
        assert (spliced.targets[row] != IGNORED).sum() == sum(label != IGNORED for label in labels)
        assert spliced.embeddings[row].count_nonzero() == wanted.count_nonzero(), "padding is zeros"


def test_each_position_says_the_token_after_it() -> None:
    targets = torch.tensor([[IGNORED, 7, 8, IGNORED]])
    assert next_tokens(targets).tolist() == [[7, 8, IGNORED, IGNORED]]


def test_gradients_reach_frames_and_words() -> None:
    ids, lengths, words, frames, _ = _batch()
    words.requires_grad_()
    frames = [sound.requires_grad_() for sound in frames]
    splice(ids, lengths, words, frames).embeddings.sum().backward()
    assert all(torch.equal(sound.grad, torch.ones_like(sound)) for sound in frames)
    assert words.grad is not None
    assert words.grad[0, 0].abs().sum() == 0, "the place of a recording has no word"
    assert words.grad[0, 1].tolist() == [1.0] * 4


def test_recordings_and_places_must_agree() -> None:
    ids, lengths, words, frames, _ = _batch()
    with pytest.raises(OptionError, match="5 places for recordings, and 4 recordings"):
        splice(ids, lengths, words, frames[:-1])
