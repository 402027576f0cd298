"""What each position of a conversation may see of its recordings; pure functions of ids, places and lengths.

The language model reads text alone: the places of recordings are taken out of it, and all frames of a conversation,
in order, are the memory that its text looks at. A position sees the recordings of its own turn and of earlier turns,
wherever in the turn they stand; a turn ends with an answer. With wait-k, an answer sees the recordings of its own
turn block by block, and all of the earlier ones. So what a position sees is a beginning of the memory: a number.

Legend: `B` rows, `U` positions, `A` recordings of a batch, `P` places of a row, `T` frames, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.speechlm.bestow.waitk import visible_frames

AUDIO = -1
"""Id at the place of a recording."""


@dataclass(frozen=True)
class Text:
    """A batch of conversations without the places of their recordings, padded on the right."""

    ids: Tensor
    """[B, U]; 0 in the padding."""
    lengths: Tensor
    """[B]."""
    learned: Tensor
    """bool [B, U]; the tokens of answers."""
    answered: Tensor
    """[B, U]; answer tokens before the position's turn: equal for all positions of a turn."""
    place_answered: Tensor
    """[B, P]; the same at the places of recordings, very large where a row has no more."""


def text_of(ids: Tensor, lengths: Tensor, learned: Tensor) -> Text:
    """The text of ids [B, U], `AUDIO` at recordings, of lengths [B]; `learned` [B, U] marks the answers."""
    index = torch.arange(ids.shape[1], device=ids.device)
    inside = index < lengths[:, None]
    learned = learned & inside
    places = (ids == AUDIO) & inside
    before = learned.cumsum(1) - learned.long()
    after_learned = torch.nn.functional.pad(learned, (1, 0))[:, :-1]
    # Within an answer the count of its first token is carried on.
    answered = torch.where(learned & after_learned, 0, before).cummax(1).values
    kept, taken = inside & ~places, places.sum(1)
    order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)
    left = kept.sum(1)
    valid = index < left[:, None]
    most = int(taken.max()) if len(taken) else 0
    first = torch.argsort((~places).to(torch.uint8), dim=1, stable=True)[:, :most]
    there = index[:most] < taken[:, None]
    return Text(
        torch.where(valid, ids.gather(1, order), 0),
        left,
        learned.gather(1, order) & valid,
        answered.gather(1, order),
        torch.where(there, answered.gather(1, first), torch.iinfo(torch.int64).max),
    )


def remembered(frames: Tensor, frame_lengths: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The memory of each conversation: frames [A, T, D] of the batch's recordings, `counts` of them a row, in order.

    Returns the memory [B, T', D], zero where padded, its lengths [B], and where each recording begins and the last
    one ends [B, P + 1]: the frames of the first 0, 1, ... recordings.
    """
    lengths = frame_lengths.tolist()
    rows, edges, start = [], [], 0
    for count in counts:
        mine = range(start, start + count)
        start += count
        pieces = [frames[audio, : lengths[audio]] for audio in mine]
        rows.append(torch.cat(pieces) if pieces else frames.new_zeros(0, frames.shape[2]))
        edges.append(torch.tensor([0, *(lengths[audio] for audio in mine)]).cumsum(0))
    most = max((len(edge) for edge in edges), default=1)
    ends = torch.stack([torch.cat([edge, edge[-1:].expand(most - len(edge))]) for edge in edges])
    ends = ends.to(frames.device)
    return pad_sequence(rows, batch_first=True), ends[:, -1], ends


def sight(text: Text, ends: Tensor, k: Tensor, stride: int) -> Tensor:
    """Frames that each position sees [B, U]; `ends` [B, P + 1] as `remembered` gives them, waiting for k [B] blocks.

    Position u of an answer (and the one before it) says the answer's next token: the first is said after k blocks.
    """
    turn = text.answered[:, :, None]
    places = text.place_answered[:, None, :]
    all_heard = ends.gather(1, (places <= turn).sum(2))
    earlier = ends.gather(1, (places < turn).sum(2))
    before = text.learned.cumsum(1)
    tokens = torch.where(text.learned, before - text.answered, 0)
    new = visible_frames(k, stride, tokens, all_heard - earlier)
    return earlier + new


def next_tokens(text: Text, ignored: int = -100) -> Tensor:
    """What each position is to say [B, U]: the token after it where that is learned, else `ignored`."""
    labels = torch.where(text.learned, text.ids, ignored)
    return torch.nn.functional.pad(labels, (0, 1), value=ignored)[:, 1:]
