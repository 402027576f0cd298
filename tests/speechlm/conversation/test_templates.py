"""Questions about recordings, drawn from templates."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from aronnax.collections.common.data import made_cut
from aronnax.collections.llm.chat.messages import Message
from aronnax.collections.speechlm.conversation.templates import TEMPLATES, Ask, TemplateConfig
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, ManifestError


def recording(text: str = "a b", **fields: Any) -> Any:
    return made_cut(lambda: np.zeros(8, np.float32), 8, 8000, text, "x", language="en", custom=fields)


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [message.text("@") for message in messages]


def test_the_recording_stands_where_the_question_says_or_at_its_end() -> None:
    for question, asked in (("hear {audio} now", "hear @ now"), ("{audio} what", "@ what"), ("say", "say @")):
        _, messages = Ask([TemplateConfig(question)])(recording(), None)
        assert texts(messages) == [asked, "a b"]


def test_fields_of_the_line_and_names_of_languages_are_filled_in() -> None:
    form = "from {source_lang} into {target_language}, {speaker}: {audio}"
    ask = Ask([TemplateConfig(form, "{target_lang}: {text}", system="{task} it")])
    task, messages = ask(
        recording("guten tag", source_lang="en", target_lang="de", speaker="anna", task="ast"), None
    )
    assert task == "ast"
    assert texts(messages) == ["ast it", "from en into German, anna: @", "de: guten tag"]


def test_braces_in_a_transcript_are_left_alone() -> None:
    _, messages = Ask([TemplateConfig("{text}")])(recording("{audio} {x}"), None)
    assert messages[0].text("@") == "{audio} {x} @"


@pytest.mark.parametrize(
    ("fields", "task", "begins"),
    [
        ({}, "asr", "Transcribe the following: @"),
        ({"source_lang": "en", "target_lang": "de"}, "ast", "Translate the following into German: @"),
        ({"question": "who speaks?", "answer": "nobody"}, "qa", "@ who speaks?"),
        ({"task": "s2t_translation", "target_lang": "fr"}, "ast", "Translate the following into French: @"),
    ],
)
def test_the_default_templates_follow_the_task(fields: dict[str, str], task: str, begins: str) -> None:
    found, messages = Ask(TEMPLATES)(recording(**fields), None)
    assert (found, messages[0].text("@")) == (task, begins)


def test_questions_and_templates_are_drawn_by_weight_and_repeat_with_the_seed() -> None:
    ask = Ask([TemplateConfig(("q", "r"), weight=3), TemplateConfig("s"), TemplateConfig("t", task="ast")])

    def draw(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [ask(recording(), rng)[1][0].text("@")[0] for _ in range(800)]

    shares = Counter(draw(0))
    assert shares["q"] / 800 == pytest.approx(0.375, abs=0.05)
    assert shares["s"] / 800 == pytest.approx(0.25, abs=0.05)
    assert shares["t"] == 0
    assert draw(0) == draw(0) != draw(1)


def test_templates_for_a_language_are_for_that_language_alone() -> None:
    ask = Ask([TemplateConfig("schreib", language="de"), TemplateConfig("write", language="en")])
    assert ask(recording(), None)[1][0].text("@") == "write @"
    assert ask(recording(target_lang="de"), None)[1][0].text("@") == "schreib @"
    with pytest.raises(ManifestError, match="no template is for task asr and language fr"):
        ask(recording(target_lang="fr"), None)


def test_a_missing_field_is_named_with_its_recording() -> None:
    with pytest.raises(ManifestError, match="x: the field mood is missing, which the template"):
        Ask([TemplateConfig("how is {mood}?")])(recording(), None)


def test_templates_are_read_from_a_configuration() -> None:
    found = from_dict(TemplateConfig, {"question": ["a", "b {audio}"], "task": "asr", "weight": 2})
    assert found.questions == ("a", "b {audio}")
    for wrong in ({"question": "{audio} {audio}"}, {"question": []}, {"question": "a", "weight": 0}):
        with pytest.raises(ConfigError):
            from_dict(TemplateConfig, wrong)
