"""What each position of a conversation may see of its recordings; pure functions of ids, places and lengths.

The language model reads text alone: the places of recordings are taken out of it, and all frames of a conversation,
in order, are the memory that its text looks at. A position sees the recordings whose places are before it, so that a
conversation that goes on changes nothing of what came before. With wait-k, an answer, and the words between a
recording and it, see the recordings of their own turn block by block, and all of the earlier ones. So what a position
sees is always a beginning of the memory: a number.

Legend: `B` rows, `U` positions, `A` recordings of a batch, `P` most recordings of a row, `T` frames, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.llm.chat.tokenizer import AUDIO
from aronnax.collections.speechlm.bestow.waitk import visible_frames


@dataclass(frozen=True)
class Text:
    """A batch of conversations without the places of their recordings, padded on the right."""

    ids: Tensor
    """[B, U]; 0 in the padding."""
    lengths: Tensor
    """[B]."""
    learned: Tensor
    """bool [B, U]; the tokens of answers."""
    before: Tensor
    """[B, U]; recordings before the position."""
    earlier: Tensor
    """[B, U]; recordings of earlier turns, which end with an answer."""
    said: Tensor
    """[B, U]; tokens of its answer once this one is said: 1 at the first, 0 where nothing is said yet."""


def text_of(ids: Tensor, lengths: Tensor, learned: Tensor | None = None, given: int = 0) -> Text:
    """The text of ids [B, U], `AUDIO` at recordings, of lengths [B]; `learned` [B, U] marks the answers.

    The first `given` tokens of an answer belong to the prompt when it is asked for, so that they are not said.
    """
    index = torch.arange(ids.shape[1], device=ids.device)
    inside = index < lengths[:, None]
    learned = torch.zeros_like(inside) if learned is None else learned & inside
    places = (ids == AUDIO) & inside
    before = places.cumsum(1)
    # What was heard by the end of the last answer; within an answer, what was heard by the end of the one before.
    answered = torch.where(learned, before, 0).cummax(1).values
    earlier = torch.where(learned, 0, answered).cummax(1).values
    count = learned.cumsum(1)
    said = (count - torch.where(learned, 0, count).cummax(1).values - given).clamp(min=0)
    order = torch.argsort((places | ~inside).to(torch.uint8), dim=1, stable=True)
    left = (inside & ~places).sum(1)
    valid = index < left[:, None]

    def kept(of: Tensor) -> Tensor:
        return of.gather(1, order) * valid

    return Text(kept(ids), left, kept(learned), kept(before), kept(earlier), kept(said))


def remembered(frames: Sequence[Tensor], counts: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The memory of each conversation: the frames [T, D] of A recordings, `counts` of them a row, in order.

    Returns the memory [B, T, D], zero where padded, in the type and place of `like` [..., D], and the frames of a
    row's first 0, 1, ... recordings, int64 [B, P + 1]; after the last one the number stays.
    """
    rest = iter(frames)
    rows, ends = [], []
    most = max(counts, default=0)
    for count in counts:
        mine = [next(rest).to(like.dtype) for _ in range(count)]
        rows.append(torch.cat(mine) if mine else like.new_zeros(0, like.shape[-1]))
        sizes = [len(one) for one in mine]
        ends.append([sum(sizes[:number]) for number in range(most + 1)])
    memory = pad_sequence(rows, batch_first=True)
    return memory, torch.tensor(ends, dtype=torch.int64, device=like.device)


def sight(text: Text, ends: Tensor, k: Tensor, stride: int) -> Tensor:
    """Frames that each position sees [B, U], waiting for k [B] blocks; `ends` [B, P + 1] are `remembered`'s.

    A position says the token after it, so the one before an answer waits for k blocks, the next for k + 1.
    """
    heard, earlier = ends.gather(1, text.before), ends.gather(1, text.earlier)
    return earlier + visible_frames(k, stride, text.said, heard - earlier)


def next_tokens(text: Text, ignored: int = -100) -> Tensor:
    """What each position is to say [B, U]: the token after it where that is learned, else `ignored`."""
    labels = torch.where(text.learned, text.ids, ignored)
    return F.pad(labels, (0, 1), value=ignored)[:, 1:]
