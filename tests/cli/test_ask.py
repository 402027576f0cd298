"""`aronnax ask`: questions with and without recordings, what is printed and written, and exit statuses."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from aronnax.cli import talking
from aronnax.cli.main import main
from aronnax.cli.talking import default_model, parts_of
from aronnax.collections.common.results.reply import Reply
from aronnax.collections.llm.chat.messages import Audio, messages_from
from aronnax.core import hub
from aronnax.core.errors import AudioError
from tests.llm.small import language_model

Run = Callable[..., tuple[int, str, str]]


class Ears:
    """Stands for a model with ears: answers with what it was asked."""

    hears = True

    def generate(self, messages: Any, **options: Any) -> Reply:
        """What was said, recordings by their names."""
        self.asked, self.options = messages_from(messages), options
        for message in self.asked:
            for audio in message.audios:
                if "broken" in str(audio.source):
                    raise AudioError(f"turn 1 (user): {audio.source} cannot be read")
        return Reply(" | ".join(str(getattr(part, "source", part)) for part in self.asked[-1].content))

    generate_stream = generate


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = 0
        try:
            main(["ask", *map(str, arguments)])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ears:
    """A folder with recordings, where a model with ears is what is loaded."""
    made = Ears()
    monkeypatch.setattr(talking.Asked, "load", lambda self: made)
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b c.wav", "broken.wav", "me@home"):
        Path(name).touch()
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model().save_pretrained(tmp_path_factory.mktemp("lm") / "tiny")


def test_a_written_question_is_answered_with_text(run: Run, checkpoint: Path) -> None:
    status, out, err = run("Hi", "-m", checkpoint, "--max-new-tokens", 4)
    assert (status, err) == (0, "")
    wanted: Any = language_model().generate("Hi", max_new_tokens=4)
    assert out == f"{wanted.text}\n"


def test_json_is_one_object_with_everything(run: Run, checkpoint: Path) -> None:
    _, out, _ = run("Hi", "-m", checkpoint, "--max-new-tokens", 4, "--format", "json")
    reply = Reply.from_dict(json.loads(out))
    assert len(reply.tokens) == len(reply.times) == len(reply.log_probs) == 4
    assert (reply.model, reply.finished) == (str(checkpoint), "limit")


def test_recordings_stand_after_the_question_and_in_it(run: Run, ears: Ears) -> None:
    assert run("Hear @a.wav and", "b c.wav")[1] == "Hear | a.wav | and | b c.wav\n"
    assert run('@"b c.wav" then what?')[1] == "b c.wav | then what?\n"


def test_options_reach_the_model(run: Run, ears: Ears) -> None:
    run("Hi", "--temperature", "0.5", "--seed", "3", "--stop", "x", "--stop", "y", "--adapter", "none")
    assert ears.options["temperature"] == 0.5
    assert ears.options["stop"] == ["x", "y"]
    assert ears.options["adapter"] is False
    assert "top_k" not in ears.options


def test_a_system_message_comes_first(run: Run, ears: Ears) -> None:
    run("Hi", "--system", "Be short.")
    assert [message.role for message in ears.asked] == ["system", "user"]


def test_a_question_may_come_from_standard_input(
    run: Run, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hear\n"))
    assert run("-", "a.wav")[1] == "Hear | a.wav\n"


def test_answers_are_written_beside_each_other(run: Run, ears: Ears) -> None:
    assert run("Hear", "a.wav", "b c.wav", "--each", "--out", "answers") == (
        0,
        "",
        "2 of 2 answers in answers\n",
    )
    assert {name: Path("answers", name).read_text() for name in os.listdir("answers")} == {
        "a.txt": "Hear | a.wav\n",
        "b c.txt": "Hear | b c.wav\n",
    }
    run("Hi", "--out", "answers", "--format", "json")
    assert json.loads(Path("answers", "answer.json").read_text())["text"] == "Hi"


def test_recordings_of_one_stem_do_not_overwrite_each_other(run: Run, ears: Ears) -> None:
    for name in ("x/take.wav", "y/take.wav", "x/take.flac"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert run("Hear", "x/take.wav", "y/take.wav", "x/take.flac", "--each", "--out", "answers")[0] == 0
    written = {file.name: file.read_text().split()[-1] for file in Path("answers").iterdir()}
    assert written == {
        "take.wav.txt": "x/take.wav",
        "take.wav-2.txt": "y/take.wav",
        "take.flac.txt": "x/take.flac",
    }


def test_one_recording_that_cannot_be_read_does_not_stop_the_others(run: Run, ears: Ears) -> None:
    status, out, err = run("Hear", "broken.wav", "a.wav", "gone.wav", "--each")
    assert status == 1
    assert out == "Hear | a.wav\n"
    assert err.splitlines() == [
        "error: turn 1 (user): broken.wav cannot be read",
        "error: there is no recording gone.wav",
        "1 of 3 answers",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Hear", "gone.wav"], "there is no recording gone.wav"),
        (["Hear @gone.wav"], "there is no recording gone.wav; a name with blanks stands in quotes"),
        (["Hi", "--format", "srt"], "--format srt is not known: use txt or json"),
        (["Hi", "--each"], "--each asks about every recording by itself: name some"),
        ([""], "the question is empty"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(
    run: Run, ears: Ears, arguments: list[str], said: str
) -> None:
    assert run(*arguments) == (2, "", f"error: {said}\n")


def test_a_model_without_ears_and_one_that_answers_nothing_say_so(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    recording = tmp_path / "a.wav"
    recording.touch()
    status, _, err = run("Hear", recording, "-m", checkpoint)
    assert status == 2
    assert "this model has no ears" in err
    status, _, err = run("Hear", "-m", "digits")
    assert status == 2
    assert "digits holds a HybridModel, which answers no questions" in err


def test_words_that_only_look_like_recordings_stay_text(ears: Ears) -> None:
    assert parts_of("mail me@home.org, @someone or @me@home now") == [
        "mail me@home.org, @someone or",
        Audio("me@home"),
        "now",
    ]


def test_the_model_with_ears_is_the_default_where_it_is_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "bundled", lambda: ["digits-lm", "digits-salm"])
    assert default_model() == "digits-salm"
    monkeypatch.setattr(hub, "bundled", lambda: ["digits-lm"])
    assert default_model() == "digits-lm"
