"""From conversations with recordings to prompts. S = samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aronnax.collections.asr.inputs import Source, is_single, sources
from aronnax.collections.common.audio.activity import speech_regions
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.llm.replying import Prompt
from aronnax.core.errors import AronnaxError, AudioError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.model import SpeechLM


def make_prompt(
    model: SpeechLM, messages: Sequence[Message], sample_rate: int | None = None, *, alone: bool = False
) -> Prompt:
    """Words become ids and recordings samples; OptionError or AudioError says which turn was wrong.

    Raises OptionError as well if the conversation leaves no room for an answer. alone: only a recording was given, so
    that errors speak of that and of no turns.
    """
    rendered = model.text.render(list(messages))
    signals = [
        open_audio(model, audio, "" if alone else f"turn {turn} ({message.role}): ", sample_rate)
        for turn, message in enumerate(messages, start=1)
        for audio in message.audios
    ]
    positions = model.positions(rendered.ids, [signal.shape[0] for signal in signals])
    if positions >= model.context:
        if alone:
            _overlong(model, messages, positions)
        _overflow(model, messages, signals, positions)
    silent = [not speech_regions(signal.numpy(), model.sample_rate) for signal in signals]
    return Prompt(rendered.ids, signals, positions, _notes(model, signals, silent), any(silent))


def _notes(model: SpeechLM, signals: Sequence[Tensor], silent: Sequence[bool]) -> tuple[str, ...]:
    """What is unusual about the recordings [S] of a conversation, in some of which the energy gate hears nobody."""
    longest, found = model.config.longest_seconds, []
    for number, signal in enumerate(signals, start=1):
        which = "the recording" if len(signals) == 1 else f"recording {number}"
        seconds = signal.shape[0] / model.sample_rate
        if longest is not None and seconds > longest:
            found.append(f"{which} lasts {seconds:.1f} s, and the model learned from up to {longest:g} s")
        if silent[number - 1]:
            found.append(f"{which} holds no speech")
    return tuple(found)


def open_audio(model: SpeechLM, audio: Audio, where: str, sample_rate: int | None = None) -> Tensor:
    """The samples [S] of a recording at the model's rate, of all its channels' mean; `where` begins errors."""
    source = _source(audio, where, sample_rate)
    try:
        with closing(source.open(model.sample_rate)) as stream:
            samples = torch.from_numpy(stream.read(0, stream.samples))
    except AronnaxError as error:
        raise AudioError(f"{where}{error}") from None
    if model.perception.frames(samples.shape[0]) < 1:
        raise AudioError(f"{where}{source.name or 'the recording'} is shorter than one frame of the model")
    return samples


def _source(audio: Audio, where: str, sample_rate: int | None) -> Source:
    given = audio.source
    if not is_single(given):
        raise OptionError(f"{where}{audio.name()} is not one recording; give a path, bytes or (array, rate)")
    found = next(iter(sources(given, sample_rate)))
    if isinstance(found, AronnaxError):
        raise AudioError(f"{where}{found}")
    return Source(found.name, found.audio, found.sample_rate, audio.offset, audio.duration)


def _overlong(model: SpeechLM, messages: Sequence[Message], positions: int) -> None:
    """OptionError that names the one recording of a conversation that has become too long."""
    (audio,) = [audio for message in messages for audio in message.audios]
    name = audio.name() if isinstance(audio.source, str | Path) else "the recording"
    over = positions - model.context + 1
    raise OptionError(
        f"{name}: with what is asked it takes {positions} tokens (frames counted), {over} more than the language"
        f" model's context of {model.context} with room for an answer: cut it into shorter recordings"
    )


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
