"""Text conversations for training: JSON lines, batches by tokens, rows that hold several conversations.

Imported only to train. Shapes: B rows, U positions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from aronnax.collections.llm.chat.lines import numbered_lines
from aronnax.collections.llm.chat.messages import Message, messages_from
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.llm.loss import IGNORED
from aronnax.core.errors import ConfigError, ManifestError, OptionError

FIRST_LINES = 100
"""Of a file, looked at before anything else is done."""


@dataclass(frozen=True)
class TextDataConfig:
    """The `data` section of a language model's training."""

    train: tuple[str, ...] = ()
    """Files of conversations to train on: JSON lines with `messages`."""
    validation: dict[str, str] = field(default_factory=dict)
    """Name -> file; each is scored as a whole."""
    batch_tokens: int = 4096
    """Most positions of a batch, padding counted."""
    longest: int | None = None
    """Conversations of more tokens are left out; None keeps all that the model's context has room for."""
    pack: bool = False
    """Put several conversations into a row, each of which sees itself only; not for models with recurrent layers."""
    seed: int = 0
    """Of the order of batches."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ConfigError(f"data.batch_tokens is {self.batch_tokens}; it must be at least 1")


@dataclass(frozen=True)
class TextRow:
    """One conversation as ids."""

    ids: list[int]
    learned: list[bool]
    messages: list[dict[str, str]]


@dataclass
class TextBatch:
    """Conversations padded on the right."""

    ids: Tensor
    """int64 [B, U]."""
    lengths: Tensor
    """int64 [B]."""
    labels: Tensor
    """The token that follows each position, int64 [B, U]; -100 where none is learned."""
    segments: Tensor | None
    """Which conversation of its row a position belongs to, int64 [B, U]; None where each row is one."""
    conversations: list[list[dict[str, str]]]
    """The messages, with their answers."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TextBatch:
        """The same batch with its tensors on `device`."""
        segments = self.segments
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=non_blocking),
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            segments=None if segments is None else segments.to(device, non_blocking=non_blocking),
        )

    @property
    def padding(self) -> float:
        """Share of the positions that is padding."""
        return 1.0 - float(self.lengths.sum()) / self.ids.numel()


class TextData(LightningDataModule):
    """Training and validation batches; a resumed run goes on at the very next one."""

    def __init__(self, config: TextDataConfig, tokenizer: ChatTokenizer, context: int) -> None:
        """`context`: most tokens of a conversation; longer ones are left out."""
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.longest = min(context, config.longest or context)
        self._used = 0
        self._rows: list[TextRow] | None = None

    @property
    def validation_names(self) -> tuple[str, ...]:
        """Names of the validation sets."""
        return tuple(self.config.validation)

    def train_dataloader(self) -> Any:
        """Batches without end, from the first that was not trained on."""
        return _Endless(self)

    def val_dataloader(self) -> list[_Whole]:
        """One loader for each validation set, in the order of the file; every process has its share."""
        return [_Whole(self, path) for path in self.config.validation.values()]

    def state_dict(self) -> dict[str, int]:
        """How many batches were trained on by each of how many processes."""
        return {"used": self._used, "world_size": _process(self)[1]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind these, whatever the number of processes is now."""
        world = _process(self)[1]
        self._used = int(state_dict.get("used", 0)) * int(state_dict.get("world_size", world)) // world

    def on_after_batch_transfer(self, batch: TextBatch, dataloader_idx: int) -> TextBatch:
        """Count a training batch; called just before the step."""
        if self.trainer is not None and self.trainer.training:
            self._used += 1
        return batch

    def batches(self, epoch: int) -> list[list[list[TextRow]]]:
        """The batches of one pass in order: lists of rows, each a list of conversations."""
        if self._rows is None:
            self._rows = [row for path in self.config.train for row in self._read(path)]
        rng = random.Random(f"{self.config.seed}/{epoch}")
        rows = rng.sample(self._rows, len(self._rows))
        packed = self._packed(rows) if self.config.pack else [[row] for row in rows]
        packed.sort(key=_length)
        made: list[list[list[TextRow]]] = [[]]
        for row in packed:
            if made[-1] and (len(made[-1]) + 1) * _length(row) > self.config.batch_tokens:
                made.append([])
            made[-1].append(row)
        rng.shuffle(made)
        return made

    def _packed(self, rows: Sequence[TextRow]) -> list[list[TextRow]]:
        """Conversations one after another into rows of at most `longest` positions."""
        room = min(self.longest, self.config.batch_tokens)
        made: list[list[TextRow]] = [[]]
        for row in rows:
            if made[-1] and _length(made[-1]) + len(row.ids) > room:
                made.append([])
            made[-1].append(row)
        return made

    def _parts(self, rows: Sequence[TextRow]) -> Iterator[list[TextRow]]:
        part: list[TextRow] = []
        for row in rows:
            widest = max(len(one.ids) for one in [*part, row])
            if part and (len(part) + 1) * widest > self.config.batch_tokens:
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _batch(self, rows: Sequence[Sequence[TextRow]]) -> TextBatch:
        lengths = torch.tensor([_length(row) for row in rows])
        shape = (len(rows), int(lengths.max()))
        ids = torch.full(shape, self.tokenizer.pad_id)
        labels = torch.full(shape, IGNORED)
        segments = torch.zeros(shape, dtype=torch.long)
        for place, row in enumerate(rows):
            start = 0
            for number, one in enumerate(row):
                end = start + len(one.ids)
                ids[place, start:end] = torch.tensor(one.ids)
                segments[place, start:end] = number
                following = [
                    token if learn else IGNORED for token, learn in zip(one.ids[1:], one.learned[1:])
                ]
                labels[place, start : end - 1] = torch.tensor(following, dtype=torch.long)
                start = end
            segments[place, start:] = len(row)
        texts = [one.messages for row in rows for one in row]
        several = any(len(row) > 1 for row in rows)
        return TextBatch(ids, lengths, labels, segments if several else None, texts)

    def _read(self, path: str) -> list[TextRow]:
        rows = [row for row in read_rows(path, self.tokenizer) if len(row.ids) <= self.longest]
        if not rows:
            raise ManifestError(f"{path}: no conversation has at most {self.longest} tokens")
        return rows


class _Endless:
    """Every rank's batches, pass after pass."""

    def __init__(self, data: TextData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TextBatch]:
        rank, world = _process(self.data)
        skipped, epoch = self.data._used, 0
        while True:
            made = self.data.batches(epoch)
            # Every process gets as many batches: the first ones twice where they do not go round.
            made += made[: -len(made) % world]
            own = made[rank::world]
            for rows in own[skipped:]:
                yield self.data._batch(rows)
            skipped, epoch = max(0, skipped - len(own)), epoch + 1


class _Whole:
    """A validation set once, shared out over the processes."""

    def __init__(self, data: TextData, path: str) -> None:
        rank, world = _process(data)
        self._batches = [
            data._batch([[row] for row in part]) for part in data._parts(data._read(path)[rank::world])
        ]

    def __iter__(self) -> Iterator[TextBatch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _process(data: TextData) -> tuple[int, int]:
    """The number of this process, and how many there are."""
    trainer = data.trainer
    return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)


def check_first_lines(config: TextDataConfig) -> None:
    """Look at the first lines of each file, before a model is loaded for them; raises as `read_rows` does."""
    for path in (*config.train, *config.validation.values()):
        for _ in islice(_read_messages(path), FIRST_LINES):
            pass


def read_rows(path: str, tokenizer: ChatTokenizer) -> Iterator[TextRow]:
    """The conversations of a file, one a line, whose last message is the answer that is learned.

    Raises ManifestError, with file and line, for a file that is missing or empty and a line that is broken.
    """
    for number, messages in _read_messages(path):
        try:
            rendered = tokenizer.render(messages, answer=True)
        except (ValueError, OptionError) as error:
            raise ManifestError(f"{path}, line {number}: {error}") from None
        plain = [{"role": message.role, "content": message.text()} for message in messages]
        yield TextRow(rendered.ids, rendered.learned, plain)


def _read_messages(path: str) -> Iterator[tuple[int, list[Message]]]:
    """The number and the messages of each line."""
    for number, line in numbered_lines(path):
        try:
            messages = messages_from(_messages(json.loads(line)))
            if any(message.audios for message in messages):
                raise OptionError("it holds a recording; train a speech language model on such conversations")
            if messages[-1].role != "assistant":
                raise OptionError("the last message must be the assistant's: it is the answer to be learned")
        except (ValueError, OptionError) as error:
            raise ManifestError(f"{path}, line {number}: {error}") from None
        yield number, messages


def _messages(plain: Any) -> Any:
    if not isinstance(plain, Mapping) or "messages" not in plain:
        has = f"; it has {', '.join(map(str, plain)) or 'no field'}" if isinstance(plain, Mapping) else ""
        raise OptionError(f"the line must be an object with `messages`{has}")
    return plain["messages"]


def _length(row: Sequence[TextRow]) -> int:
    return sum(len(one.ids) for one in row)
