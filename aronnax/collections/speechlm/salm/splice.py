"""Putting the frames of recordings where a conversation has a place for them.

Shapes: B rows, U tokens, T frames, U' positions after splicing, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.llm.chat.tokenizer import AUDIO
from aronnax.collections.llm.loss import IGNORED
from aronnax.core.errors import OptionError


@dataclass(frozen=True)
class Spliced:
    """Conversations as a language model reads them: embeddings of words with frames of recordings among them."""

    embeddings: Tensor
    """[B, U', D], zeros in the padding."""
    lengths: Tensor
    """Positions that are not padding, int64 [B]."""
    targets: Tensor | None
    """The token that stands at each position, IGNORED where it is not learned; int64 [B, U']."""


def splice(
    ids: Tensor,
    id_lengths: Tensor,
    words: Tensor,
    frames: Sequence[Tensor],
    *,
    learned: Tensor | None = None,
    left_padded: bool = False,
) -> Spliced:
    """Each place of a recording in `ids` replaced by that recording's frames, each row to its own length.

    Args:
        ids: [B, U], padded on the right to `id_lengths` [B]; AUDIO where a recording stands.
        words: [B, U, D] embeddings of the ids; what stands at AUDIO and in the padding is not looked at.
        frames: [T, D] of each recording, without padding, in the order of their places over the whole batch.
        learned: [B, U], true on the tokens to learn; None makes no targets.
        left_padded: whether the rows of the result end together, instead of beginning together.

    Raises:
        OptionError: there are more or fewer recordings than places.
    """
    rest = iter(frames)
    rows, targets = [], []
    spots = _spots(ids, id_lengths, len(frames))
    for row, (length, places) in enumerate(spots):
        pieces, labels, start = [], [], 0
        for place in [*places, length]:
            pieces.append(words[row, start:place])
            if learned is not None:
                labels.append(_labels(ids[row, start:place], learned[row, start:place]))
            if place < length:
                sound = next(rest).to(words.dtype)
                pieces.append(sound)
                labels.append(ids.new_full((sound.shape[0],), IGNORED))
            start = place + 1
        rows.append(torch.cat(pieces))
        targets.append(torch.cat(labels) if learned is not None else ids.new_zeros(0))
    side = "left" if left_padded else "right"
    lengths = torch.tensor([row.shape[0] for row in rows], device=ids.device)
    padded = pad_sequence(rows, batch_first=True, padding_side=side)
    if learned is None:
        return Spliced(padded, lengths, None)
    return Spliced(padded, lengths, pad_sequence(targets, True, IGNORED, side))


def next_tokens(targets: Tensor) -> Tensor:
    """Targets [B, U'] -> what each position has to say: the target of the position after it."""
    return torch.cat([targets[:, 1:], targets.new_full((targets.shape[0], 1), IGNORED)], dim=1)


def _labels(ids: Tensor, learned: Tensor) -> Tensor:
    return ids.masked_fill(~learned, IGNORED)


def _spots(ids: Tensor, id_lengths: Tensor, recordings: int) -> list[tuple[int, list[int]]]:
    """The length of each row and its places of recordings; reads the device once."""
    lengths = id_lengths.tolist()
    inside = torch.arange(ids.shape[1], device=ids.device) < id_lengths[:, None]
    found = ((ids == AUDIO) & inside).nonzero().tolist()
    if len(found) != recordings:
        raise OptionError(
            f"the conversations have {len(found)} places for recordings, and {recordings} recordings were given"
        )
    places: list[list[int]] = [[] for _ in lengths]
    for row, place in found:
        places[row].append(place)
    return list(zip(lengths, places))
