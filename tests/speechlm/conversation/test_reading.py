"""Conversations as JSON lines: three layouts, and what is wrong with broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.speechlm.conversation.reading import (
    Conversation,
    read_conversations,
    write_conversations,
)
from aronnax.core.errors import ManifestError

Write = Callable[..., Path]
ANSWER = {"role": "assistant", "content": "fine"}


def only(path: Path, **options: Any) -> Conversation:
    (found,) = read_conversations(path, **options)
    return found


def test_our_own_layout_keeps_the_order_of_text_and_audio(
    write_lines: Write, noise: Callable[..., str], tmp_path: Path
) -> None:
    content = ["listen", {"audio": noise("a.wav", 0.5), "offset": 0.1, "duration": 0.2}, "and tell"]
    path = write_lines({"id": "x", "messages": [{"role": "user", "content": content}, ANSWER], "task": "qa"})
    found = only(path)
    heard = Audio(str(tmp_path / "a.wav"), 0.1, 0.2)
    assert found.messages == (
        Message("user", ("listen", heard, "and tell")),
        Message("assistant", ("fine",)),
    )
    assert (found.id, found.extra) == ("x", {"task": "qa"})


def test_nemo_turns_of_one_speaker_become_one_message(
    write_lines: Write, noise: Callable[..., str], tmp_path: Path
) -> None:
    turns = [
        {"from": "System", "type": "text", "value": "be brief"},
        {"from": "User", "type": "text", "value": "what is said"},
        {"from": "User", "type": "audio", "value": noise("a.wav", 1.0), "duration": 1.0, "offset": 0.0},
        {"from": "Assistant", "type": "text", "value": "nothing"},
        {"from": "User", "type": "audio", "value": noise("b.wav", 0.5), "duration": 0.5},
        {"from": "Assistant", "type": "text", "value": "noise"},
    ]
    found = only(write_lines({"id": "n", "conversations": turns, "custom": {"lang": "en"}}))
    assert [message.role for message in found.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert found.messages[1].content == ("what is said", Audio(str(tmp_path / "a.wav"), 0.0, 1.0))
    assert found.messages[3].content == (Audio(str(tmp_path / "b.wav"), 0.0, 0.5),)


def test_openai_parts_and_bare_texts_may_be_mixed(
    write_lines: Write, noise: Callable[..., str], tmp_path: Path
) -> None:
    parts = [{"type": "audio", "audio": noise("a.wav", 0.3)}, {"type": "text", "text": "what"}, "is it"]
    found = only(write_lines({"messages": [{"role": "user", "content": parts}, ANSWER]}))
    assert found.messages[0].content == (Audio(str(tmp_path / "a.wav")), "what", "is it")
    assert found.id == "conversations-1"


def test_text_conversations_in_share_gpt_form_are_read(write_lines: Write) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    found = only(write_lines({"conversations": turns}))
    assert found.messages == (Message("user", ("hi",)), Message("assistant", ("hello",)))


def test_what_is_written_is_read_again(write_lines: Write, noise: Callable[..., str], tmp_path: Path) -> None:
    content = ["a", {"audio": noise("sub/a.wav", 0.5), "duration": 0.25}, "b"]
    before = only(write_lines({"id": "x", "messages": [{"role": "user", "content": content}, ANSWER]}))
    assert write_conversations(tmp_path / "again.jsonl", [before]) == 1
    assert only(tmp_path / "again.jsonl") == before
    assert str(tmp_path) not in (tmp_path / "again.jsonl").read_text()


def test_a_question_alone_is_read_where_no_answer_is_asked_for(write_lines: Write) -> None:
    path = write_lines({"messages": [{"role": "user", "content": "hi"}]})
    assert len(only(path, answered=False).messages) == 1
    with pytest.raises(ManifestError, match="turn 1: role is user; the last turn must be the assistant's"):
        only(path)


USER = {"role": "user", "content": "hi"}
BROKEN = {
    "assistant first": ([ANSWER], "turn 1: role is assistant, and no user has spoken before"),
    "assistant after system": (
        [{"role": "system", "content": "x"}, ANSWER],
        "turn 2: role is assistant, and no user has spoken before",
    ),
    "empty second assistant": (
        [USER, ANSWER, {"role": "assistant", "content": ""}],
        "turn 3: content of assistant is empty; it must hold an answer to learn",
    ),
    "blank answer": ([USER, {"role": "assistant", "content": "  "}], "turn 2: content of assistant is empty"),
    "empty question": ([{"role": "user", "content": []}, ANSWER], "turn 1: content of user is empty"),
    "missing audio": (
        [{"role": "user", "content": [{"audio": "gone.wav"}]}, ANSWER],
        "turn 1: audio names .*gone.wav, which does not exist",
    ),
    "audio in an answer": (
        [USER, {"from": "Assistant", "type": "audio", "value": "a.wav"}],
        "turn 2: value of assistant has an audio; only the user's may",
    ),
    "unknown role": ([{"role": "robot", "content": "x"}], "turn 1: role is 'robot'; it must be user"),
    "no role": ([{"content": "x"}], "turn 1: the field role"),
    "no content": ([{"role": "user"}], "turn 1: the field content"),
    "unknown type": ([{"role": "user", "content": "x", "type": "video"}], "turn 1: type is 'video'"),
    "unknown part": ([{"role": "user", "content": [{"type": "image"}]}], "a part of type 'image'"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], "which lacks its text"),
    "number as content": (
        [{"role": "user", "content": 3}],
        "turn 1: content is 3; it must be text or a list",
    ),
    "number as turn": ([3], "turn 1: is 3; it must be an object"),
    "system later": ([USER, {"role": "system", "content": "x"}], "turn 2: role is system; only the first"),
    "negative offset": (
        [{"role": "user", "content": [{"audio": "a.wav", "offset": -1}]}, ANSWER],
        "turn 1: offset is -1; it must be a number of seconds",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_turn_is_named_with_file_line_turn_and_field(
    kind: str, write_lines: Write, noise: Callable[..., str]
) -> None:
    noise("a.wav", 0.2)
    turns, said = BROKEN[kind]
    path = write_lines({"messages": [USER, ANSWER]}, {"messages": turns})
    with pytest.raises(ManifestError, match=f"conversations.jsonl, line 2, .*{said}"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: list instead of an object"),
        ('{"id": 1}', "line 1: the field messages"),
        ('{"messages": []}', "line 1: messages is \\[\\]; it must be a list of turns"),
        ("", "the file is empty"),
    ],
)
def test_a_broken_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(ManifestError, match=said):
        list(read_conversations(tmp_path / "x.jsonl"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="none\\.jsonl: the conversations cannot be opened"):
        list(read_conversations(tmp_path / "none.jsonl"))


def test_lines_marked_to_skip_are_passed_over(write_lines: Write) -> None:
    path = write_lines({"messages": [USER, ANSWER], "_skipme": True}, {"messages": [USER, ANSWER]})
    assert only(path).line == 2


def test_the_sample_of_the_examples_is_read() -> None:
    sample = Path(__file__).parents[3] / "examples" / "speechlm" / "conversations.jsonl"
    found = list(read_conversations(sample))
    assert [sum(len(message.audios) for message in each.messages) for each in found] == [1, 2, 1, 0, 1]
