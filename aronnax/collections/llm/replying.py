"""From conversations to replies, a few batches at a time, whatever the model reads or hears.

Everything here lives in the call: no model and no module-level state is changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aronnax.collections.common.results.reply import Reply
from aronnax.collections.llm.answering import AnswerOptions, Piece, answer, answer_stream
from aronnax.core.errors import AronnaxError, AudioError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.llm.chat.messages import Message
    from aronnax.collections.llm.chat_model import ChatModel

Adapter = str | bool | None
"""A name of an adapter; False for none; None for those that are active."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as a language model reads it."""

    ids: list[int]
    """Token ids, AUDIO where a recording goes."""
    signals: list[Tensor]
    """Samples [S] of its recordings at the model's rate."""
    positions: int
    """How many positions of the language model it takes."""
    notes: tuple[str, ...] = ()
    """What the reader of the reply should know."""
    silent: bool = False
    """Whether nobody speaks in one of its recordings."""


@dataclass(frozen=True)
class Answered:
    """What became of one conversation of many."""

    index: int
    """Its number among them, from 0."""
    replies: list[Reply]
    """Best first; none where there is an error."""
    error: AronnaxError | None = None
    """Why it could not be answered."""
    samples: int = 0
    """Of its recordings together, at the model's rate."""
    silent: bool = False
    """Whether nobody speaks in one of them."""

    @property
    def reply(self) -> Reply:
        """The best reply; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.replies[0]


def answer_each(
    model: ChatModel,
    conversations: Iterable[Sequence[Message] | Prompt | AronnaxError],
    options: AnswerOptions,
    *,
    batch_size: int,
    adapter: Adapter = None,
    sample_rate: int | None = None,
) -> Iterator[Answered]:
    """What becomes of each conversation, as soon as it is known; an error among them is passed on in its place.

    A prompt among them is one that was made before.
    So many batches are made ready at a time as the model reads ahead, and those of alike length answered together.
    """
    numbered = enumerate(conversations)
    while group := list(islice(numbered, model.ahead * batch_size)):
        ready: list[tuple[int, Prompt]] = []
        for index, given in group:
            made = _prompt(model, given, sample_rate)
            if isinstance(made, AronnaxError):
                yield Answered(index, [], made)
            else:
                ready.append((index, made))
        ready.sort(key=lambda item: -item[1].positions)
        for start in range(0, len(ready), batch_size):
            batch = ready[start : start + batch_size]
            found = answer_batch(model, [prompt for _, prompt in batch], options, adapter)
            for (index, prompt), replies in zip(batch, found):
                samples = sum(len(signal) for signal in prompt.signals)
                yield Answered(index, replies, samples=samples, silent=prompt.silent)


def _prompt(
    model: ChatModel, given: Sequence[Message] | Prompt | AronnaxError, sample_rate: int | None
) -> Prompt | AronnaxError:
    if isinstance(given, Prompt | AronnaxError):
        return given
    try:
        return model.prompt(given, sample_rate)
    except AronnaxError as error:
        return error


@torch.inference_mode()
def answer_batch(
    model: ChatModel, prompts: Sequence[Prompt], options: AnswerOptions, adapter: Adapter = None
) -> list[list[Reply]]:
    """The replies to prompts that are answered together."""
    began = time.perf_counter()
    decoder, lengths = model.bind_prompts(prompts, adapter)
    return answer(
        decoder,
        lengths,
        model.text,
        options,
        context=model.context,
        model=model.source,
        notes=[prompt.notes for prompt in prompts],
        began=began,
    )


def stream_reply(
    model: ChatModel, prompt: Prompt, options: AnswerOptions, adapter: Adapter
) -> Iterator[Piece]:
    """The reply to one prompt, piece by piece."""
    began = time.perf_counter()
    with torch.inference_mode():
        decoder, lengths = model.bind_prompts([prompt], adapter)
    yield from answer_stream(
        decoder,
        lengths,
        model.text,
        options,
        context=model.context,
        model=model.source,
        notes=prompt.notes,
        began=began,
    )


def placed(error: AronnaxError, index: int) -> AronnaxError:
    """The error with the number of its conversation, from 1, in front."""
    if isinstance(error, AudioError | OptionError):
        return type(error)(f"conversation {index + 1}: {error}")
    return error
