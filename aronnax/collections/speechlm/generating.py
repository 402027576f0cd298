"""From conversations with recordings to prompts, and from prompts to replies.

Everything here lives in the call: no model and no module-level state is changed. A = recordings, S = samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.asr.inputs import Source, is_single, sources
from aronnax.collections.common.results.reply import Reply
from aronnax.collections.llm.answering import AnswerOptions, Piece, answer, answer_stream
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.core.errors import AronnaxError, AudioError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.model import SpeechLM

Adapter = str | bool | None
"""A name of an adapter; False for none; None for those that are active."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as a speech language model reads it."""

    ids: list[int]
    """Token ids, AUDIO where a recording goes."""
    signals: list[Tensor]
    """Samples [S] of its recordings at the model's rate."""
    positions: int
    """How many positions of the language model it takes."""
    notes: tuple[str, ...] = ()
    """What the reader of the reply should know."""


def make_prompt(model: SpeechLM, messages: Sequence[Message], sample_rate: int | None = None) -> Prompt:
    """Words become ids and recordings samples; OptionError or AudioError says which turn was wrong.

    Raises OptionError as well if the conversation leaves no room for an answer.
    """
    rendered = model.text.render(list(messages))
    signals = [
        open_audio(model, audio, f"turn {turn} ({message.role})", sample_rate)
        for turn, message in enumerate(messages, start=1)
        for audio in message.audios
    ]
    positions = model.positions(rendered.ids, [signal.shape[0] for signal in signals])
    if positions >= model.context:
        _overflow(model, messages, signals, positions)
    return Prompt(rendered.ids, signals, positions)


def open_audio(model: SpeechLM, audio: Audio, where: str, sample_rate: int | None = None) -> Tensor:
    """The samples [S] of a recording at the model's rate, of all its channels' mean."""
    source = _source(audio, where, sample_rate)
    try:
        with closing(source.open(model.sample_rate)) as stream:
            samples = torch.from_numpy(stream.read(0, stream.samples))
    except AronnaxError as error:
        raise AudioError(f"{where}: {error}") from None
    if model.perception.frames(samples.shape[0]) < 1:
        raise AudioError(f"{where}: {source.name or 'the recording'} is shorter than one frame of the model")
    return samples


def _source(audio: Audio, where: str, sample_rate: int | None) -> Source:
    given = audio.source
    if not is_single(given):
        raise OptionError(
            f"{where}: {audio.name()} is not one recording; give a path, bytes or (array, rate)"
        )
    found = next(iter(sources(given, sample_rate)))
    if isinstance(found, AronnaxError):
        raise AudioError(f"{where}: {found}")
    return Source(found.name, found.audio, found.sample_rate, audio.offset, audio.duration)


def _overflow(
    model: SpeechLM, messages: Sequence[Message], signals: Sequence[Tensor], positions: int
) -> None:
    """OptionError that names the turn with which the conversation has become too long."""
    lengths = [signal.shape[0] for signal in signals]
    for turn, message in enumerate(messages, start=1):
        if message.role == "assistant":
            continue
        until = messages[:turn]
        heard = lengths[: sum(len(one.audios) for one in until)]
        if (
            message.role == "system"
            or model.positions(model.text.render(list(until)).ids, heard) < model.context
        ):
            continue
        over = positions - model.context + 1
        raise OptionError(
            f"the conversation has {positions} tokens (frames of recordings counted), {over} more than the "
            f"language model's context of {model.context} with room for an answer; it is too long from turn {turn} "
            f"({message.role}) on: shorten that turn or its recordings, or leave out earlier turns"
        )


def reply_to(
    model: SpeechLM,
    conversations: Sequence[Sequence[Message]],
    options: AnswerOptions,
    *,
    batch_size: int,
    adapter: Adapter,
    sample_rate: int | None = None,
) -> list[list[Reply]]:
    """The replies to each conversation, best first; those of alike length are answered together."""
    prompts = [make_prompt(model, messages, sample_rate) for messages in conversations]
    order = sorted(range(len(prompts)), key=lambda index: prompts[index].positions)
    replies: list[list[Reply]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for index, found in zip(batch, answer_batch(model, [prompts[i] for i in batch], options, adapter)):
            replies[index] = found
    return replies


@torch.inference_mode()
def answer_batch(
    model: SpeechLM, prompts: Sequence[Prompt], options: AnswerOptions, adapter: Adapter = None
) -> list[list[Reply]]:
    """The replies to prompts that are answered together."""
    began = time.perf_counter()
    decoder, lengths = model.decoder_for(
        [prompt.ids for prompt in prompts], [prompt.signals for prompt in prompts], adapter=adapter
    )
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
    model: SpeechLM, prompt: Prompt, options: AnswerOptions, adapter: Adapter
) -> Iterator[Piece]:
    """The reply to one prompt, piece by piece."""
    began = time.perf_counter()
    with torch.inference_mode():
        decoder, lengths = model.decoder_for([prompt.ids], [prompt.signals], adapter=adapter)
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


def checked_batch_size(size: Any) -> int:
    """The batch size; OptionError unless it is a whole number of at least 1."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OptionError(f"batch_size={size!r} must be a whole number of at least 1")
    return size
