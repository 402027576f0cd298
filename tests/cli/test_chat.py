"""`aronnax chat`: several turns, commands, recordings, and what happens where nobody sits before it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

from aronnax.cli import talking
from aronnax.cli.chat import HELP, Talk
from aronnax.cli.main import main
from aronnax.collections.common.results.reply import Reply
from aronnax.collections.llm.answering import Piece
from aronnax.collections.llm.chat.messages import messages_from
from tests.llm.small import language_model

Run = Callable[..., tuple[int, str, str]]


class Counter:
    """Stands for a model: says how many turns it was given, in two pieces."""

    hears = True
    interrupted = False
    text = SimpleNamespace(render=lambda messages: None)

    def generate_stream(self, messages: Any, **options: Any) -> Iterator[Piece]:
        """`<turns> turns`."""
        self.asked, self.options = messages_from(messages), options
        yield Piece(f"{len(self.asked)} ", 1, 0.0, 0.0)
        if self.interrupted:
            raise KeyboardInterrupt
        yield Piece("turns", None, 0.0, None, Reply(f"{len(self.asked)} turns"))


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    made = Counter()
    monkeypatch.setattr(talking.Asked, "load", lambda self: made)
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b c.wav"):
        Path(name).touch()
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(lines: str, *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as stopped:
            main(["chat", *map(str, arguments)])
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return call


def test_the_conversation_is_remembered(run: Run, counter: Counter) -> None:
    assert run("Hi\n\nAnd you?\n") == (0, "1 turns\n3 turns\n", "")
    assert [message.text() for message in counter.asked] == ["Hi", "1 turns", "And you?"]


def test_a_reset_forgets_all_but_the_system_message(run: Run, counter: Counter) -> None:
    assert run("Hi\n/reset\nHi\n", "--system", "Be short.")[1] == "2 turns\n2 turns\n"
    assert counter.asked[0].role == "system"


def test_a_system_message_the_model_has_no_place_for_is_told_once(run: Run) -> None:
    status, out, err = run("seven\nnine\n", "-m", "digits-lm", "--system", "Be short.")
    assert (status, out) == (2, "")
    assert err.startswith("error: --system: the digits prompt format has no system message")
    assert len(err.splitlines()) == 1


def test_recordings_stand_anywhere_in_a_message(run: Run, counter: Counter) -> None:
    run("""compare @a.wav with @'b c.wav' please\n""")
    assert counter.asked[0].text("<>") == "compare <> with <> please"
    assert [audio.source for audio in counter.asked[0].audios] == ["a.wav", "b c.wav"]


def test_a_message_that_fails_is_told_and_forgotten(run: Run, counter: Counter) -> None:
    status, out, err = run("Hi\nhear @gone.wav\nAnd?\n")
    assert status == 1
    assert out == "1 turns\n3 turns\n"
    assert err == "error: there is no recording gone.wav; a name with blanks stands in quotes\n"


def test_quit_ends_it_and_help_explains(run: Run, counter: Counter) -> None:
    assert run("/help\n/quit\nHi\n") == (0, HELP + "\n", "")


def test_what_was_said_is_saved_as_a_line_that_training_reads(run: Run, counter: Counter) -> None:
    from aronnax.collections.speechlm.conversation.reading import read_conversations

    status, out, err = run("/save talk.jsonl\nhear @a.wav\n/save talk.jsonl\n/save\n")
    assert status == 1
    assert out == "1 turns\nsaved to talk.jsonl\n"
    assert err.splitlines() == [
        "error: there is nothing to save yet",
        "error: /save needs a file: /save talk.jsonl",
    ]
    assert len(Path("talk.jsonl").read_text().splitlines()) == 1
    (saved,) = read_conversations("talk.jsonl")
    assert [message.role for message in saved.messages] == ["user", "assistant"]
    assert saved.messages[0].audios[0].source.endswith("a.wav")


def test_an_unknown_command_is_told_from_a_message(run: Run, counter: Counter) -> None:
    status, out, err = run("/exit\n/tmp/x is a folder\n")
    assert status == 1
    assert out == "1 turns\n"
    assert err == "error: /exit is no command: /reset, /save FILE, /help, /quit\n"


def test_a_stopped_answer_is_forgotten(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(counter, {})
    counter.interrupted = True
    talk.take("Hi")
    assert capsys.readouterr().out == "1  [stopped]\n"
    assert talk.messages == []


def test_a_real_model_streams_what_it_would_say_at_once(run: Run, tmp_path: Path) -> None:
    model = language_model()
    model.save_pretrained(tmp_path / "tiny")
    first: Any = model.generate("Hi", max_new_tokens=4)
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "seven"},
    ]
    second: Any = model.generate(chat, max_new_tokens=4)
    status, out, _ = run("Hi\nseven\n", "-m", tmp_path / "tiny", "--max-new-tokens", 4)
    assert (status, out) == (0, f"{first.text}\n{second.text}\n")


def test_a_context_that_is_full_is_told(run: Run, tmp_path: Path) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    status, _, err = run("seven three nine " * 40 + "\nHi\n", "-m", tmp_path / "tiny", "--max-new-tokens", 2)
    assert status == 1
    assert "more than the language model's context of 96" in err
    assert json.dumps("from turn 1 (user) on")[1:-1] in err
