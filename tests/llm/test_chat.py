"""Conversations are read, checked and written down; what is broken is said in one sentence."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from aronnax.collections.llm.chat.messages import (
    Audio,
    Message,
    conversations_from,
    messages_from,
)
from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer
from aronnax.core.errors import CheckpointError, OptionError

FIXTURE = json.loads(
    (Path(__file__).parents[1] / "parity" / "fixtures" / "chat_prompts.json").read_text(encoding="utf-8")
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = [{"role": "user", "content": ["Hi", Audio("a.wav")]}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "seven"}]


def files(template: str | None = None, **settings: Any) -> dict[str, bytes]:
    made = {name: text.encode() for name, text in FIXTURE["tokenizers"]["bytes"].items()}
    config = {**json.loads(made["tokenizer_config.json"]), **settings}
    if template is not None:
        config["chat_template"] = template
    return {**made, "tokenizer_config.json": json.dumps(config).encode()}


def test_a_text_is_one_user_message() -> None:
    assert messages_from("Hi") == [Message("user", ("Hi",))]


def test_mappings_of_other_libraries_are_understood() -> None:
    content = [{"type": "text", "text": "Repeat:"}, {"type": "audio", "audio": "a.wav"}]
    assert messages_from([{"role": "user", "content": content}])[0].content == ("Repeat:", Audio("a.wav"))


def test_one_conversation_and_many_are_told_apart() -> None:
    assert conversations_from("Hi")[1]
    assert conversations_from(ASKED)[1]
    many, single = conversations_from([ASKED, "Hi"])
    assert not single
    assert len(many) == 2
    assert many[1][0].content == ("Hi",)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ([], "the conversation is empty"),
        (7, "not int"),
        ([{"role": "user"}], "turn 1 has no 'content'"),
        ([{"role": "judge", "content": "Hi"}], "turn 1 has the role 'judge'"),
        ([{"role": "user", "content": [3]}], "turn 1 holds int '3'"),
        ([{"role": "user", "content": "Hi"}, "there"], "turn 2 is a str"),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [Audio("a.wav")]}],
            "turn 2 is the assistant's and holds a recording",
        ),
    ],
)
def test_broken_turns_are_named(broken: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        messages_from(broken)


def test_pieces_stand_apart_by_one_blank() -> None:
    assert Message("user", ("Hi ", Audio("a"), "there", "now\n", Audio("b"))).text("A") == "Hi A there now\nA"


def test_the_tokenizers_own_template_writes_what_the_named_format_writes() -> None:
    named = ChatTokenizer.from_assets(files(QWEN), prompt_format="qwen")
    own = ChatTokenizer.from_assets(files(QWEN))
    for conversation, answer in ((ASKED, False), (ANSWERED, True)):
        assert own.render(conversation, answer=answer).ids == named.render(conversation, answer=answer).ids
    assert named.end_ids == own.end_ids
    assert own.id_of("<|im_end|>") in own.end_ids


def test_a_template_learns_the_answers_and_nothing_else() -> None:
    tokenizer = ChatTokenizer.from_assets(files(QWEN))
    two = [*ANSWERED, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "three, nine"}]
    made = tokenizer.render(two, answer=True)
    learned = [token for token, learn in zip(made.ids, made.learned) if learn]
    assert tokenizer.decode(learned, skip_special=False) == "seven<|im_end|>\nthree, nine<|im_end|>\n"


def test_a_template_that_rewrites_earlier_turns_learns_its_last_answer() -> None:
    rewriting = QWEN.replace("{{ m.content }}", "{{ m.content if loop.last else 'past' }}")
    tokenizer = ChatTokenizer.from_assets(files(rewriting))
    two = [*ANSWERED, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "three, nine"}]
    with pytest.raises(OptionError, match="0 places for 1 recordings"):
        tokenizer.render(two, answer=True)
    made = tokenizer.render([{**turn, "content": "Hi"} for turn in two], answer=True)
    learned = [token for token, learn in zip(made.ids, made.learned) if learn]
    assert tokenizer.decode(learned, skip_special=False).endswith("Hi<|im_end|>\n")
    assert not made.learned[0]


def test_recordings_have_places_in_order() -> None:
    content = [Audio("a"), "and", Audio("b")]
    made = ChatTokenizer.from_assets(files(), prompt_format="qwen").render(
        [{"role": "user", "content": content}]
    )
    assert made.ids.count(AUDIO) == 2
    assert [audio.source for audio in made.audios] == ["a", "b"]
    assert not any(made.learned)


def test_text_cannot_pose_as_a_recording() -> None:
    with pytest.raises(OptionError, match=r"turn 1 holds the text <\|audioplaceholder\|>"):
        ChatTokenizer.from_assets(files(), prompt_format="qwen").render("Hear <|audioplaceholder|>")


def test_a_lacking_chat_template_is_said_with_the_way_out() -> None:
    with pytest.raises(OptionError, match="no chat template; name a prompt format instead"):
        ChatTokenizer.from_assets(files()).render("Hi")


def test_a_template_may_refuse_and_cannot_reach_out() -> None:
    for template in (
        "{{ raise_exception('no tools') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% if %}",
    ):
        with pytest.raises(OptionError, match="the chat template refuses this conversation"):
            ChatTokenizer.from_assets(files(template)).render("Hi")


@pytest.mark.parametrize(
    ("roles", "answer", "sentence"),
    [
        (("assistant",), True, "turn 1 is the assistant's where the user's must come"),
        (("system", "user"), False, "the qwen prompt format has no system message"),
        (("user", "system", "user"), False, "turn 2 is the system's"),
        (("user",), True, "the last message must be the assistant's"),
        (("user", "assistant"), False, "the last message is the assistant's"),
    ],
)
def test_broken_roles_are_named(roles: tuple[str, ...], answer: bool, sentence: str) -> None:
    tokenizer = ChatTokenizer.from_assets(files(), prompt_format="qwen")
    with pytest.raises(OptionError, match=sentence):
        tokenizer.render([{"role": role, "content": "Hi"} for role in roles], answer=answer)


def test_neighbours_of_one_role_are_joined() -> None:
    tokenizer = ChatTokenizer.from_assets(files(), prompt_format="qwen")
    apart = [{"role": "user", "content": "context"}, {"role": "user", "content": [Audio("a")]}]
    assert tokenizer.render(apart).ids == tokenizer.render([Message("user", ("context", Audio("a")))]).ids


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"'qwem' is not known.*qwen"):
        ChatTokenizer.from_assets(files(), prompt_format="qwem")


def test_a_format_that_needs_a_token_says_which() -> None:
    with pytest.raises(OptionError, match="needs the tokenizer's bos_token"):
        ChatTokenizer.from_assets(files(bos_token=None), prompt_format="gemma").render("Hi")


def test_ids_that_end_an_answer_come_from_all_files() -> None:
    assets = {**files(), "generation_config.json": b'{"eos_token_id": [5, 9]}'}
    tokenizer = ChatTokenizer.from_assets(assets, prompt_format="llama3")
    assert tokenizer.end_ids == (tokenizer.eos_id, 5, 9)
    assert tokenizer.id_of("<|eot_id|>") == 9


def test_damaged_files_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        ChatTokenizer.from_assets({})
    with pytest.raises(CheckpointError, match=r"tokenizer.json is damaged"):
        ChatTokenizer.from_assets({"tokenizer.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json is not valid JSON"):
        ChatTokenizer.from_assets({**files(), "tokenizer_config.json": b"{"})


def test_copies_and_stored_files_make_equal_tokenizers() -> None:
    tokenizer = ChatTokenizer.from_assets(files(QWEN), prompt_format="qwen")
    again = ChatTokenizer.from_assets(tokenizer.assets(), prompt_format="qwen")
    for other in (again, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert other.render(ANSWERED, answer=True).ids == tokenizer.render(ANSWERED, answer=True).ids
    assert tokenizer.vocab_size == again.vocab_size  # the place for recordings is not one of them


def test_text_comes_back() -> None:
    tokenizer = ChatTokenizer.from_assets(files())
    assert tokenizer.decode([AUDIO, *tokenizer.encode("Hello, über <|im_end|>")]) == "Hello, über "
