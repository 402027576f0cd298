"""Lists of words in the questions of training, as SALM has them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.in_context import InContext, InContextConfig
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.core.errors import ConfigError

ANSWERS = [" ".join(f"{kind}{number}" for kind in "abcdef") for number in range(1001)]


def test_five_of_ten_words_come_from_the_answer_and_five_from_the_one_before() -> None:
    draw = InContext(InContextConfig(probability=1.0, number=10, positive_share=0.5), 0)
    assert draw.keywords(ANSWERS[0]) == []
    for before, answer in pairwise(ANSWERS):
        listed = draw.keywords(answer)
        assert sum(word in answer.split() for word in listed) == 5
        assert sum(word in before.split() for word in listed) == 5


def test_with_probability_zero_nothing_is_written() -> None:
    draw = InContext(InContextConfig(probability=0.0), 0)
    messages = (Message("user", ("what", Audio("a.wav"))), Message("assistant", ("a b",)))
    assert all(draw(messages) == messages for _ in range(100))


def test_with_probability_one_half_half_of_the_questions_get_a_list() -> None:
    draw = InContext(InContextConfig(probability=0.5), 0)
    assert 0.45 <= sum(bool(draw.keywords(answer)) for answer in ANSWERS[:1000]) / 1000 <= 0.55


def test_the_order_of_a_list_tells_nothing() -> None:
    draw = InContext(InContextConfig(probability=1.0, number=4), 0)
    firsts = [draw.keywords(answer)[:1] for answer in ANSWERS]
    own = sum(bool(first) and first[0] in answer.split() for first, answer in zip(firsts, ANSWERS))
    assert 0.45 < own / 1000 < 0.55


def test_lists_repeat_with_the_seed() -> None:
    def draw(seed: int) -> list[list[str]]:
        made = InContext(InContextConfig(probability=0.5), seed)
        return [made.keywords(answer) for answer in ANSWERS[:50]]

    assert draw(1) == draw(1) != draw(2)


def test_the_list_stands_before_the_first_question() -> None:
    messages = (
        Message("system", ("be brief",)),
        Message("user", ("what", Audio("a.wav"))),
        Message("assistant", ("a",)),
    )
    written = KeywordPrompt().before(messages, ["a", "b"])
    assert written[1].text("@") == "Following words may occur in audio: ['a' 'b'] what @"
    assert (written[0], written[2]) == (messages[0], messages[2])
    assert KeywordPrompt().before(messages, []) == messages


def test_the_list_looks_like_a_printed_array() -> None:
    words = ["a", "it's", "Nautilus", *(f"word{n}" for n in range(40))]
    printed = str(np.array(words)).replace("\n", "")
    assert KeywordPrompt().write(words) == f"Following words may occur in audio: {printed} "


def test_settings_that_can_never_list_a_right_word_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.1 of 3 words is less than one"):
        InContextConfig(number=3, positive_share=0.1)
    with pytest.raises(ConfigError, match=r"in_context\.probability is 2"):
        InContextConfig(probability=2)
    with pytest.raises(ConfigError, match=r"needs \{keywords\} once"):
        KeywordPrompt("words:")
