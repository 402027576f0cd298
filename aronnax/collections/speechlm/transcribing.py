"""From recordings to transcripts by asking: each has a prompt of its own, those of alike length go together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.inputs import Source, sources
from aronnax.collections.asr.transcribing import Result
from aronnax.collections.common.results import Transcript
from aronnax.collections.llm.answering import AnswerOptions
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.llm.replying import Adapter, Prompt, answer_each
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.collections.speechlm.generating import make_prompt
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.llm.replying import Answered
    from aronnax.collections.speechlm.model import SpeechLM


UNTIMED = "a language model with ears gives words no times"
"""Noted on its transcripts."""


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
    opened: dict[int, Source] = {}

    def prompts() -> Iterator[Prompt | AronnaxError]:
        for index, source in enumerate(sources(x, sample_rate)):
            if isinstance(source, AronnaxError):
                yield source
                continue
            opened[index] = source
            audio = source.audio if source.sample_rate is None else (source.audio, source.sample_rate)
            part = Audio(audio, source.offset, source.duration)
            try:
                yield make_prompt(model, asked.messages(part, model.config.keyword_prompt), alone=True)
            except AronnaxError as error:
                yield error

    options = {"batch_size": asked.batch_size, "adapter": asked.adapter}
    for found in answer_each(model, prompts(), asked.options, **options):  # type: ignore[arg-type]
        source = opened.pop(found.index, None)
        if found.error is not None or source is None:
            yield Result(found.index, None if source is None else source.name, error=found.error)
            continue
        seconds = found.samples / model.sample_rate
        if asked.progress is not None:
            asked.progress(seconds)
        transcript = _transcript(model, source, found, seconds, asked.language)
        yield Result(found.index, source.name, transcript, encoded_seconds=seconds)


def _transcript(
    model: SpeechLM, source: Source, found: Answered, seconds: float, language: str | None
) -> Transcript:
    reply = found.reply
    notes = [*reply.notes, UNTIMED]
    if reply.finished == "limit":
        notes.append("cut short: the model wrote as many tokens as it may, which loops do too")
    return Transcript(
        text="" if found.silent else reply.text.strip(),
        duration=seconds,
        model=model.source,
        source=source.name,
        language=language or source.language,
        notes=tuple(notes),
    )
