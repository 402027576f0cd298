"""Conversations out of recordings with transcripts: a question drawn from templates, and the text as its answer."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from lhotse.cut import Cut

AUDIO_PLACE = "{audio}"
"""Where a question has the recording; at its end where it says nothing."""

_FIELD = re.compile(r"\{(\w+)\}")
_TASKS = {"transcribe": "asr", "translate": "ast", "s2t_translation": "ast"}
"""Other names of tasks in manifests."""
_LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mt": "Maltese",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "zh": "Chinese",
}


@dataclass(frozen=True)
class TemplateConfig:
    """Questions for recordings of one task and language, and how their answers are made.

    Fields in braces are those of the manifest's line, and `{text}`, `{source_lang}`, `{target_lang}`, and the English
    names of these languages, `{source_language}` and `{target_language}`.
    """

    question: str | tuple[str, ...] = "Transcribe the following:"
    """One of these is drawn; `{audio}` is the place of the recording, its end where it is not there."""
    answer: str = "{text}"
    """What the model has to say."""
    task: str | None = None
    """Task of the recordings it is for: asr, ast, qa, or what the manifest says; every one without."""
    language: str | None = None
    """Language of the answers it is for, such as `de`; every one without."""
    system: str = ""
    """A system message before the question; none where empty."""
    weight: float = 1.0
    """How often it is drawn beside others that are for the same recording."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ConfigError("a template needs at least one question")
        for question in self.questions:
            if question.count(AUDIO_PLACE) > 1:
                raise ConfigError(f"the question {question!r} has {{audio}} more than once")
        if self.weight <= 0:
            raise ConfigError(f"weight {self.weight} of a template must be above 0")

    @property
    def questions(self) -> tuple[str, ...]:
        """All its questions."""
        return (self.question,) if isinstance(self.question, str) else self.question

    def suits(self, task: str, language: str | None) -> bool:
        """Whether it is for recordings of this task and this language of the answer."""
        return self.task in (None, task) and self.language in (None, language)


TEMPLATES = (
    TemplateConfig(
        (
            "Transcribe the following: {audio}",
            "Transcribe: {audio}",
            "{audio} What is said in the recording?",
            "Write down what you hear: {audio}",
            "{audio} Write down every word of it.",
        ),
        task="asr",
    ),
    TemplateConfig(
        (
            "Translate the following into {target_language}: {audio}",
            "{audio} What does this mean in {target_language}?",
            "Say in {target_language} what is said here: {audio}",
            "{audio} Translate it into {target_language}.",
        ),
        task="ast",
    ),
    TemplateConfig(("{audio} {question}", "{question} {audio}"), "{answer}", task="qa"),
)
"""What is asked unless a configuration says otherwise."""


def task_of(fields: Mapping[str, Any]) -> str:
    """The task that a recording's fields speak of: the one they name, or what follows from the others.

    >>> task_of({"source_lang": "en", "target_lang": "de"})
    'ast'
    """
    task = fields.get("task")
    if isinstance(task, str):
        return _TASKS.get(task, task)
    if fields.get("question"):
        return "qa"
    source, target = fields.get("source_lang"), fields.get("target_lang")
    return "ast" if source and target and source != target else "asr"


class Ask:
    """Makes the turns of a conversation about one recording."""

    def __init__(self, templates: Sequence[TemplateConfig]) -> None:
        """Of one template or more; ConfigError without any."""
        if not templates:
            raise ConfigError("conversation.templates is empty; one says what is asked about a recording")
        self.templates = tuple(templates)

    def __call__(self, cut: Cut, rng: random.Random | None) -> tuple[str, tuple[Message, ...]]:
        """The task, and the turns, with the cut as their audio; the first template and question without `rng`.

        Raises:
            ManifestError: no template is for such a recording, or one needs a field it lacks.
        """
        from aronnax.collections.common.data.filters import cut_name

        fields = fields_of(cut)
        task, language = task_of(fields), fields.get("target_lang") or fields.get("language")
        suited = [template for template in self.templates if template.suits(task, language)]
        if not suited:
            raise ManifestError(
                f"{cut_name(cut)}: no template is for task {task} and language {language}; "
                "add one to conversation.templates"
            )
        template, question = suited[0], suited[0].questions[0]
        if rng is not None:
            (template,) = rng.choices(suited, weights=[each.weight for each in suited])
            question = rng.choice(template.questions)
        messages = [
            Message("user", _asked(question, fields, cut)),
            Message("assistant", (_filled(template.answer, fields, cut),)),
        ]
        if template.system:
            messages.insert(0, Message("system", (_filled(template.system, fields, cut),)))
        return task, tuple(messages)


def fields_of(cut: Cut) -> dict[str, Any]:
    """What templates may say of a recording: its fields, slots, text and languages."""
    from aronnax.collections.common.data.filters import cut_language, cut_text
    from aronnax.collections.common.data.slots import cut_slots

    found: dict[str, Any] = dict(cut.custom or {})
    for supervision in cut.supervisions:
        found = {**(supervision.custom or {}), **found}
    found |= cut_slots(cut)
    found["language"] = cut_language(cut)
    found["text"] = cut_text(cut) or ""
    found.setdefault("answer", found["text"])
    for name in ("source", "target"):
        code = found.get(f"{name}_lang")
        if code is not None:
            found[f"{name}_language"] = _LANGUAGES.get(str(code).split("-")[0].lower(), code)
    return found


def _filled(form: str, fields: Mapping[str, Any], cut: Cut) -> str:
    def value(found: re.Match[str]) -> str:
        from aronnax.collections.common.data.filters import cut_name

        name = found[1]
        if fields.get(name) is None:
            raise ManifestError(
                f"{cut_name(cut)}: the field {name} is missing, which the template {form!r} needs"
            )
        return str(fields[name])

    return _FIELD.sub(value, form)


def _asked(question: str, fields: Mapping[str, Any], cut: Cut) -> tuple[str | Audio, ...]:
    before, _, after = question.partition(AUDIO_PLACE)
    parts = (_filled(before, fields, cut).strip(), Audio(cut), _filled(after, fields, cut).strip())
    return tuple(part for part in parts if part)
