"""What a training step of a speech language model works on: conversations as token ids, and all their recordings.

B rows (conversations), U ids, A recordings of all rows together, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer, Rendered


@dataclass
class ConversationBatch:
    """Conversations as ids, padded at the end, with the recordings they speak of in the order of their places."""

    ids: Tensor
    """Token ids with AUDIO (-1) where a recording belongs, int64 [B, U]."""
    id_lengths: Tensor
    """Ids that are not padding, int64 [B]."""
    learned: Tensor
    """Whether an id belongs to an answer that is learned, bool [B, U]."""
    signal: Tensor
    """Samples of the recordings at the model's rate, float32 [A, S]; [0, 0] where no row has one."""
    signal_lengths: Tensor
    """Samples that are not padding, int64 [A]."""
    audio_counts: Tensor
    """Recordings of each row, int64 [B]; their sum is A."""
    asked: list[list[int]]
    """The ids of each row that the model is given to make its last answer."""
    texts: list[str]
    """The last answer of each row."""
    names: list[str]
    """Names of the rows."""

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ConversationBatch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ConversationBatch:
        """The same batch with its tensors in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> ConversationBatch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})

    @property
    def padding(self) -> float:
        """Share of the signal that is padding, 0 to 1."""
        return 1.0 - float(self.signal_lengths.sum()) / self.signal.numel() if self.signal.numel() else 0.0

    def signals(self) -> list[list[Tensor]]:
        """The recordings of each row, [S] each, without padding."""
        flat = [row[:length] for row, length in zip(self.signal, self.signal_lengths.tolist())]
        ends = self.audio_counts.cumsum(0).tolist()
        return [flat[end - count : end] for end, count in zip(ends, self.audio_counts.tolist())]


def collate(
    rendered: Sequence[Rendered],
    signals: Sequence[Tensor],
    texts: Sequence[str],
    names: Sequence[str],
    pad_id: int,
    asked: Sequence[Sequence[int]] | None = None,
) -> ConversationBatch:
    """Pad rendered conversations and their recordings [S], in the order of the rows, into one batch.

    `asked` are the ids from which each row's last answer is to come; without them, those before it.

    Raises:
        ValueError: the conversations have places for more or fewer recordings than there are.
    """
    counts = [row.ids.count(AUDIO) for row in rendered]
    if sum(counts) != len(signals):
        raise ValueError(
            f"{len(rendered)} conversations speak of {sum(counts)} recordings, not {len(signals)}"
        )
    id_lengths = torch.tensor([len(row.ids) for row in rendered], dtype=torch.int64)
    signal_lengths = torch.tensor([signal.shape[0] for signal in signals], dtype=torch.int64)
    width = max(id_lengths.tolist(), default=0)
    ids = torch.full((len(rendered), width), pad_id, dtype=torch.int64)
    learned = torch.zeros(len(rendered), width, dtype=torch.bool)
    for place, row in enumerate(rendered):
        ids[place, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.int64)
        learned[place, : len(row.ids)] = torch.tensor(row.learned, dtype=torch.bool)
    signal = torch.zeros(len(signals), max(signal_lengths.tolist(), default=0))
    for place, samples in enumerate(signals):
        signal[place, : samples.shape[0]] = samples
    return ConversationBatch(
        ids,
        id_lengths,
        learned,
        signal,
        signal_lengths,
        torch.tensor(counts, dtype=torch.int64),
        [list(row) for row in asked or [row.ids[: _last_answer(row.learned)] for row in rendered]],
        list(texts),
        list(names),
    )


def _last_answer(learned: Sequence[bool]) -> int:
    """Where the last run of learned ids begins; the end where nothing is learned."""
    start = len(learned)
    while start and not learned[start - 1]:
        start -= 1
    if not start:
        return len(learned)
    while start and learned[start - 1]:
        start -= 1
    return start


class MakeConversationBatch:
    """Makes a ConversationBatch from conversation cuts and the signals [S] of all their recordings.

    Messages become ids here, in the workers.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, cuts: Sequence[Any], signals: Sequence[Tensor]) -> ConversationBatch:
        """The batch of conversation cuts whose recordings, in order, have these samples [S] at the model's rate."""
        from aronnax.collections.common.data.filters import cut_text
        from aronnax.collections.speechlm.conversation.cuts import messages_of

        chats = [messages_of(cut) for cut in cuts]
        rendered = [self.tokenizer.render(chat, answer=True) for chat in chats]
        # What begins an answer belongs to the turn that is learned, and to the question all the same.
        asked = [self.tokenizer.render(chat[:-1]).ids for chat in chats]
        texts = [cut_text(cut) or "" for cut in cuts]
        names = [str(cut.id) for cut in cuts]
        return collate(rendered, signals, texts, names, self.tokenizer.pad_id, asked)


def fabricated(
    size: int, seconds: float, tokens: int, sample_rate: int, vocab_size: int, seed: int = 0
) -> ConversationBatch:
    """Made-up rows as costly as any of a bucket: a recording of all its seconds, all its tokens, each learned.

    For the batch-size finder: a `Task.fabricate(size, seconds, tokens)` is this with the model's numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = max(1, round(seconds * sample_rate))
    ids = torch.randint(0, vocab_size, (size, max(2, tokens) + 1), generator=generator)
    ids[:, 0] = AUDIO
    lengths = torch.full((size,), ids.shape[1], dtype=torch.int64)
    return ConversationBatch(
        ids,
        lengths,
        valid_frames(lengths, ids.shape[1]) & (ids != AUDIO),
        0.1 * torch.randn(size, samples, generator=generator),
        torch.full((size,), samples, dtype=torch.int64),
        torch.ones(size, dtype=torch.int64),
        [[AUDIO]] * size,
        [""] * size,
        [f"made-up-{index}" for index in range(size)],
    )
