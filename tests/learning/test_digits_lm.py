"""The bundled language model answers what its card says, on strings it was never trained on."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import aronnax
from aronnax.core.hub import bundled

EXAMPLES = Path(__file__).parents[2] / "examples" / "speechlm" / "digits"
CARD = Path(aronnax.__file__).parent / "bundled" / "digits-lm" / "README.md"
pytestmark = pytest.mark.skipif("digits-lm" not in bundled(), reason="digits-lm is not bundled")


@pytest.fixture(scope="module")
def model() -> Any:
    return aronnax.load("digits-lm", device="cpu")


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules of questions and of chats."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import chats
    import questions

    for name in ("chats", "questions"):
        monkeypatch.delitem(sys.modules, name)
    return questions, chats


def test_questions_about_unseen_strings_are_answered(model: Any, examples: tuple[Any, Any]) -> None:
    questions, chats = examples
    rng = random.Random(1)
    # Adding and reading backwards are its weak sides, by its card.
    kinds = [kind for kind in questions.KINDS if kind not in ("add", "backwards")]
    turns = [chats.new_string(rng, True, kind) for kind in kinds for _ in range(8)]
    replies = model.generate([turn.text for turn in turns], max_new_tokens=32, batch_size=64)
    wrong = [(turn.text, reply.text) for turn, reply in zip(turns, replies) if reply.text != turn.answer]
    assert len(wrong) <= 0.1 * len(turns), wrong


def test_text_tasks_are_answered_exactly(model: Any, examples: tuple[Any, Any]) -> None:
    questions, _ = examples
    rng = random.Random(2)
    tasks = [questions.text_task(rng, name) for name in questions.TEXT_TASKS for _ in range(8)]
    replies = model.generate([asked for asked, _ in tasks], max_new_tokens=16, batch_size=64)
    wrong = [pair for pair, reply in zip(tasks, replies) if reply.text != pair[1]]
    assert len(wrong) <= 0.1 * len(tasks), wrong


def test_a_follow_up_is_about_the_latest_string(model: Any) -> None:
    chat = [{"role": "user", "content": "transcribe: 7 3 9"}]
    for question, answer in (
        ("And in French?", "sept trois neuf"),
        ("in German: 2 2", "zwei zwei"),
        ("and how many digits are there", "two"),
    ):
        reply = model.generate(chat)
        chat += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": question}]
        assert model.generate(chat).text == answer


def test_the_named_format_is_the_tokenizers_own_template(model: Any) -> None:
    chat = [
        {"role": "user", "content": "Repeat: 7"},
        {"role": "assistant", "content": "seven"},
        {"role": "user", "content": "and in french"},
    ]
    named, own = (model.text.render(chat, prompt_format=name).ids for name in ("digits", "chat_template"))
    assert named == own
    assert model.text.audio_token == "<|audio|>"
    assert model.text.vocab_size == model.llm.vocab_size


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in CARD.parent.iterdir()) < 3 * 2**20
    said = CARD.read_text(encoding="utf-8")
    assert "train_lm.py" in said
    assert "@" not in said
