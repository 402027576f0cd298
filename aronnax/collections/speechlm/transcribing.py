"""From recordings to transcripts by asking: each has a prompt of its own, those of alike length go together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.inputs import Source, sources
from aronnax.collections.asr.transcribing import Result
from aronnax.collections.common.results import Transcript
from aronnax.collections.llm.answering import AnswerOptions
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.collections.speechlm.generating import Adapter, Prompt, answer_batch, make_prompt
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.speechlm.model import SpeechLM

_GROUP = 4
"""Batches that are read at once, so that each can be made of recordings of alike length."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every recording, and how."""

    prompt: str
    keywords: str | Sequence[str]
    """Words that may be said; a text holds them with commas between."""
    options: AnswerOptions
    batch_size: int
    adapter: Adapter = None
    language: str | None = None
    progress: Callable[[float], None] | None = None

    def messages(self, audio: Audio, words: KeywordPrompt) -> list[Message]:
        """The conversation that asks for a transcript."""
        return list(words.before([Message("user", (self.prompt, audio))], listed(self.keywords)))


def listed(keywords: str | Sequence[str]) -> list[str]:
    """Key words as a list.

    >>> listed("Aronnax, Nautilus")
    ['Aronnax', 'Nautilus']
    """
    words = keywords.split(",") if isinstance(keywords, str) else list(keywords)
    if not all(isinstance(word, str) for word in words):
        raise OptionError(f"keywords={keywords!r} must be words: a list, or a text with commas between them")
    return [word.strip() for word in words if word.strip()]


def transcribe_each(
    model: SpeechLM, x: Any, asked: Asked, sample_rate: int | None = None
) -> Generator[Result, None, None]:
    """A result for every recording of an input; `index` counts recordings in input order."""
    numbered = enumerate(sources(x, sample_rate))
    while group := list(islice(numbered, _GROUP * asked.batch_size)):
        ready: list[tuple[int, Source, Prompt]] = []
        for index, source in group:
            made = source if isinstance(source, AronnaxError) else _prompt(model, source, asked)
            if isinstance(made, AronnaxError):
                name = None if isinstance(source, AronnaxError) else source.name
                yield Result(index, name, error=made)
            elif isinstance(source, Source):
                ready.append((index, source, made))
        ready.sort(key=lambda item: -item[2].positions)
        for start in range(0, len(ready), asked.batch_size):
            yield from _answered(model, ready[start : start + asked.batch_size], asked)


def _prompt(model: SpeechLM, source: Source, asked: Asked) -> Prompt | AronnaxError:
    audio = source.audio if source.sample_rate is None else (source.audio, source.sample_rate)
    messages = asked.messages(Audio(audio, source.offset, source.duration), model.config.keyword_prompt)
    try:
        return make_prompt(model, messages)
    except AronnaxError as error:
        return error


def _answered(model: SpeechLM, batch: Sequence[tuple[int, Source, Prompt]], asked: Asked) -> Iterator[Result]:
    replies = answer_batch(model, [prompt for *_, prompt in batch], asked.options, asked.adapter)
    for (index, source, prompt), (reply, *_) in zip(batch, replies):
        seconds = sum(signal.shape[0] for signal in prompt.signals) / model.sample_rate
        if asked.progress is not None:
            asked.progress(seconds)
        transcript = _transcript(model, source, reply, seconds, asked.language)
        yield Result(index, source.name, transcript, encoded_seconds=seconds)


def _transcript(
    model: SpeechLM, source: Source, reply: Reply, seconds: float, language: str | None
) -> Transcript:
    notes = list(reply.notes)
    if reply.finished == "limit":
        notes.append("cut short: the model wrote as many tokens as it may, which loops do too")
    return Transcript(
        text=reply.text.strip(),
        duration=seconds,
        model=model.source,
        source=source.name,
        language=language or source.language,
        notes=tuple(notes),
    )
