"""Questions about recordings: a language model reads a transcript and writes a question and its answer.

The recording stays what it was; only question and answer are new.
Source: VoiceTextBlender, arXiv 2410.17485, section 3.1 (speech-based question answering).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aronnax.collections.common.data.manifest import ManifestEntry, read_manifest
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.makers.chat_models import Chat
from aronnax.collections.speechlm.conversation.makers.journal import Journal, Made
from aronnax.collections.speechlm.conversation.reading import to_fields
from aronnax.core.errors import ConfigError

PROMPT = """Below is what is said in a recording. Write one question that somebody who has only heard the recording \
can answer from it, and the answer. Ask about what is said, in the language in which it is said, and mention neither \
a transcript nor a text.

Reply with a single line of JSON and nothing else:
{"question": "...", "answer": "..."}
If it is too short or makes no sense, reply with the single word none.

What is said: {text}"""
"""What the model is asked; the transcript stands in place of `{text}`."""

MEANINGLESS = "without a meaning, by the model's word"
MALFORMED = "with a reply that is not one line of JSON with question and answer"

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A question about a recording, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class QuestionsConfig:
    """How questions are asked for and written down."""

    prompt: str = PROMPT
    """What the model is asked, with `{text}` for the transcript."""
    audio_first: float = 0.5
    """Share of the conversations in which the recording stands before the question."""
    batch_size: int = 32
    """Transcripts given to the model at once."""
    seed: int = 0
    """Of what stands first."""

    def __post_init__(self) -> None:
        if "{text}" not in self.prompt:
            raise ConfigError("the prompt for questions has no {text}, where the transcript belongs")
        if not 0 <= self.audio_first <= 1:
            raise ConfigError(f"audio_first is {self.audio_first}; it lies between 0 and 1")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")


def read_reply(reply: str) -> Question | str:
    """Question and answer of a model's reply, or why it has none.

    A reply is one line of JSON with exactly these two texts, or the word none; a thought before it and a fence of
    three backticks around it are passed over.

    >>> read_reply('{"question": "Who sings?", "answer": "A bird."}')
    Question(question='Who sings?', answer='A bird.')
    """
    text = _THOUGHT.sub("", reply).strip()
    fenced = _FENCED.match(text)
    text = fenced[1].strip() if fenced else text
    if text.strip("\"'. ").lower() == "none":
        return MEANINGLESS
    if "\n" in text:
        return MALFORMED
    try:
        found = json.loads(text)
    except ValueError:
        return MALFORMED
    if not isinstance(found, dict) or found.keys() != {"question", "answer"}:
        return MALFORMED
    question, answer = found["question"], found["answer"]
    if not isinstance(question, str) or not isinstance(answer, str):
        return MALFORMED
    if not question.strip() or not answer.strip():
        return MALFORMED
    return Question(question.strip(), answer.strip())


def make_questions(
    manifest: Path,
    out: Path,
    config: QuestionsConfig,
    chat: Chat,
    *,
    model: str = "",
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Made:
    """Write a question about each recording of a manifest; the same call goes on where it was stopped.

    Args:
        manifest: Recordings with transcripts.
        out: Folder for `conversations.jsonl`.
        config: How to ask.
        chat: Writes the questions.
        model: What it is called, so that a folder is not gone on with by another.
        limit: Takes no more than so many lines of the manifest.
        progress: Called with a number of lines that are done.

    Raises:
        ManifestError: a line of the manifest is broken.
        OptionError: the folder holds what was made in another way.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "batch_size"}
    journal = Journal(out, {"manifest": str(manifest), "model": model, "limit": limit, **settings})
    if journal.complete:
        return journal.finish()
    entries = (entry for entry in read_manifest(manifest) if limit is None or entry.line <= limit)
    for batch in _batches(entries, config.batch_size):
        waiting = [entry for entry in batch if entry.line not in journal]
        asked = [entry for entry in waiting if entry.text and entry.text.strip()]
        prompts = [config.prompt.replace("{text}", str(entry.text).strip()) for entry in asked]
        replies = dict(zip((entry.line for entry in asked), chat(prompts) if prompts else []))
        for entry in waiting:
            found = read_reply(replies[entry.line]) if entry.line in replies else "without a transcript"
            if isinstance(found, Question):
                journal.add(entry.line, [_row(entry, found, manifest, out, config)])
            else:
                journal.add(entry.line, [], found)
        if progress is not None:
            progress(len(batch))
    return journal.finish()


def _batches(entries: Iterator[ManifestEntry], size: int) -> Iterator[list[ManifestEntry]]:
    while batch := list(islice(entries, size)):
        yield batch


def _row(
    entry: ManifestEntry, found: Question, manifest: Path, out: Path, config: QuestionsConfig
) -> dict[str, Any]:
    audio = Audio(entry.audio_filepath, entry.offset, entry.duration)
    rng = random.Random(f"{config.seed} {entry.line}")
    content = (audio, found.question) if rng.random() < config.audio_first else (found.question, audio)
    messages = [Message("user", content), Message("assistant", (found.answer,))]
    extra = {"task": "qa", "text": entry.text, **({"lang": entry.language} if entry.language else {})}
    return to_fields(f"{manifest.stem}-{entry.line}", messages, out, extra)
