"""Mixed-modal conversations: some sentences of a written question are spoken, the answer stays as it is.

Of a question with n sentences min(n, 2) versions are made. In each a span of sentences is drawn and replaced by one
recording of exactly these words, so that the recording may be all of the question, its beginning, middle or end.
Source: VoiceTextBlender, arXiv 2410.17485, section 3.1.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.makers.journal import Journal, Made
from aronnax.collections.speechlm.conversation.makers.sentences import draw_span, parted, sentences
from aronnax.collections.speechlm.conversation.makers.voices import Synthesizer
from aronnax.collections.speechlm.conversation.reading import Conversation, read_conversations, to_fields
from aronnax.core.errors import AudioError, ConfigError
from aronnax.core.files import replaced_file

VERSIONS = 2
"""Versions of a question, at most."""

CATEGORIES = (
    "Brainstorming",
    "Planning",
    "Advice seeking",
    "Role playing",
    "Reasoning",
    "Data analysis",
    "Editing",
    "Creative writing",
    "Information seeking",
)
"""Kinds of question that are spoken; mathematics and programs are left out."""


@dataclass(frozen=True)
class SpokenConfig:
    """Which conversations are taken, and how their recordings are written."""

    categories: tuple[str, ...] = CATEGORIES
    """Kinds that are taken of conversations whose field `task_category` names one; none for all kinds."""
    language: str = "en"
    """Language that is taken of conversations whose field `language` (or `lang`) names one; empty for all."""
    question_tokens: int = 128
    """Questions of so many tokens or more are left out."""
    answer_tokens: int = 1024
    """Likewise answers."""
    seconds: tuple[float, float] = (0.1, 40.0)
    """Shortest and longest recording; questions with another are left out."""
    sample_rate: int = 16000
    """Hz."""
    seed: int = 0
    """Of the spans and speakers."""

    def __post_init__(self) -> None:
        if not 0 <= self.seconds[0] < self.seconds[1]:
            raise ConfigError(f"seconds is {list(self.seconds)}; it must be two rising durations")
        for name in ("question_tokens", "answer_tokens", "sample_rate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")


def make_spoken(
    source: Path,
    out: Path,
    config: SpokenConfig,
    synthesize: Synthesizer,
    *,
    voices: str = "",
    count_tokens: Callable[[str], int] | None = None,
    limit: int | None = None,
    progress: Callable[[], object] | None = None,
) -> Made:
    """Speak parts of written conversations; the same call goes on where it was stopped.

    Args:
        source: Conversations without audio, as JSON lines.
        out: Folder for `audio/*.flac` and `conversations.jsonl`.
        config: What to take.
        synthesize: Speaks.
        voices: What the synthesiser is called, so that a folder is not gone on with by another.
        count_tokens: Counts the tokens of a text; its words without.
        limit: Takes no more than so many lines of the source.
        progress: Called after each line.

    Raises:
        ManifestError: a line of the source is broken.
        OptionError: the folder holds what was made in another way.
    """
    journal = Journal(out, {"source": str(source), "voices": voices, "limit": limit, **_settings(config)})
    maker = _Maker(out, config, synthesize, count_tokens or _words)
    if not journal.complete:
        for found in read_conversations(source):
            if limit is not None and found.line > limit:
                break
            if found.line not in journal:
                journal.add(found.line, *maker.make(found))
            if progress is not None:
                progress()
    return journal.finish()


def _settings(config: SpokenConfig) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()
    }


def _words(text: str) -> int:
    return len(text.split())


@dataclass(frozen=True)
class _Maker:
    """Makes the versions of one conversation after the other."""

    out: Path
    config: SpokenConfig
    synthesize: Synthesizer
    count_tokens: Callable[[str], int]

    def make(self, found: Conversation) -> tuple[list[dict[str, Any]], str]:
        """The versions of a conversation, or none and why."""
        reason = self._unfit(found)
        if reason:
            return [], reason
        place = next(place for place, message in enumerate(found.messages) if message.role == "user")
        parts = sentences(found.messages[place].text().strip())
        rng = random.Random(f"{self.config.seed} {found.line}")
        rows = []
        for version in range(min(len(parts), VERSIONS)):
            before, spoken, after = parted(parts, *draw_span(len(parts), rng))
            seed, name = rng.randrange(2**31), f"{found.line:08d}-{version}"
            seconds = self._speak(spoken, seed, name)
            if seconds is None:
                return (
                    [],
                    f"with a recording outside {self.config.seconds[0]:g} to {self.config.seconds[1]:g} s",
                )
            audio = Audio(self.out / "audio" / f"{name}.flac", duration=seconds)
            content = tuple(part for part in (before, audio, after) if part)
            messages = (*found.messages[:place], Message("user", content), *found.messages[place + 1 :])
            extra = {**found.extra, "task": "spoken", "spoken": spoken}
            rows.append(to_fields(f"{found.id}-{version}", messages, self.out, extra))
        return rows, ""

    def _unfit(self, found: Conversation) -> str:
        config = self.config
        if any(message.audios for message in found.messages):
            return "with audio already"
        category = found.extra.get("task_category")
        if config.categories and category is not None and category not in config.categories:
            return "of another category"
        language = found.extra.get("language", found.extra.get("lang"))
        if config.language and language is not None and str(language).lower() != config.language.lower():
            return "in another language"
        question = next(message.text() for message in found.messages if message.role == "user")
        if self.count_tokens(question) >= config.question_tokens:
            return f"with a question of {config.question_tokens} tokens or more"
        if self.count_tokens(found.messages[-1].text()) >= config.answer_tokens:
            return f"with an answer of {config.answer_tokens} tokens or more"
        return ""

    def _speak(self, text: str, seed: int, name: str) -> float | None:
        """Write the recording of a text; its seconds, or None where it is too short or too long."""
        import soundfile
        import soxr

        samples, rate = self.synthesize(text, seed)
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise AudioError(
                f"the synthesiser gave samples of shape {samples.shape} for {text!r}, not finite [S]"
            )
        low, high = self.config.seconds
        if not low <= samples.size / rate <= high:
            return None
        if rate != self.config.sample_rate:
            samples = soxr.resample(samples, rate, self.config.sample_rate)
        content = io.BytesIO()
        soundfile.write(content, np.clip(samples, -1.0, 1.0), self.config.sample_rate, format="FLAC")
        with replaced_file(self.out / "audio" / f"{name}.flac") as file:
            file.write(content.getvalue())
        return float(samples.size / self.config.sample_rate)


def spoken_question(fields: Mapping[str, Any]) -> str:
    """The question of a made conversation as it was written, its recording replaced by its words.

    >>> spoken_question({"messages": [{"role": "user", "content": ["Look. ", {"audio": "a.flac"}]}], "spoken": "Go!"})
    'Look. Go!'
    """
    asked = next(turn for turn in fields["messages"] if turn["role"] == "user")
    content = asked["content"] if isinstance(asked["content"], list) else [asked["content"]]
    return "".join(part if isinstance(part, str) else fields["spoken"] for part in content)
