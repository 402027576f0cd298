"""Questions about recordings: what is kept of a model's replies, servers that fail, and going on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aronnax.collections.speechlm.conversation.makers.chat_models import EndpointChat, LocalChat
from aronnax.collections.speechlm.conversation.makers.questions import (
    MALFORMED,
    MEANINGLESS,
    Question,
    QuestionsConfig,
    make_questions,
    read_reply,
)
from aronnax.collections.speechlm.conversation.reading import read_conversations
from aronnax.core.errors import AronnaxError, OptionError

Write = Callable[..., Path]
GOOD = '{"question": "Who?", "answer": "Nemo"}'

KEPT = [
    GOOD,
    '{"answer": "Nemo", "question": "Who?"}',
    f"  {GOOD}  ",
    f"\n{GOOD}\n",
    f"```json\n{GOOD}\n```",
    f"```\n{GOOD}\n```",
    f"<think>Let me see.\nWell.</think>\n{GOOD}",
    f"<think></think>{GOOD}",
    '{"question":"Who?","answer":"Nemo"}',
    '{ "question" : " Who? " , "answer" : " Nemo " }',
    '{"question": "Was sagt \\u00fcber \\"Nemo\\" er?", "answer": "nichts"}',
    '{"question": "何?", "answer": "海"}',
    '{"question": "How many?", "answer": "3"}',
    '{"question": "A {brace}?", "answer": "[yes]"}',
    '{"question": "Is it none?", "answer": "none"}',
    '{"question": "Two\\nlines?", "answer": "yes"}',
    '{"question": "Tab?", "answer": "a\\tb"}',
    f"   <think>x</think>   {GOOD}",
    '{"question": "Who?", "answer": "Nemo"}\r\n',
    '{"question": "?", "answer": "!"}',
]
NONE = [
    "none",
    "None",
    "NONE",
    " none ",
    "none.",
    '"none"',
    "'none'",
    "none\n",
    "<think>hm</think>none",
    "None.",
]
BROKEN = [
    "",
    " ",
    "null",
    "[]",
    "{}",
    "Who? Nemo",
    "none of this makes sense",
    '{"question": "Who?"}',
    '{"answer": "Nemo"}',
    '{"question": "Who?", "answer": ""}',
    '{"question": " ", "answer": "Nemo"}',
    '{"question": "Who?", "answer": 3}',
    '{"question": null, "answer": "Nemo"}',
    '{"question": ["Who?"], "answer": "Nemo"}',
    '{"question": "Who?", "answer": "Nemo"',
    '{"question": "Who?", "answer": "Nemo"} I hope this helps.',
    'Here it is: {"question": "Who?", "answer": "Nemo"}',
    "{'question': 'Who?', 'answer': 'Nemo'}",
    '{"question": "Who?", "answer": "Nemo", "note": "x"}',
    f"[{GOOD}]",
]


def test_fifty_replies_are_told_apart() -> None:
    assert len({*KEPT, *NONE, *BROKEN}) == 50
    assert [reply for reply in (*KEPT, *NONE, *BROKEN) if isinstance(read_reply(reply), Question)] == KEPT
    assert [reply for reply in (*KEPT, *NONE, *BROKEN) if read_reply(reply) == MEANINGLESS] == NONE
    assert [reply for reply in (*KEPT, *NONE, *BROKEN) if read_reply(reply) == MALFORMED] == BROKEN


def test_a_reply_of_several_lines_is_not_taken() -> None:
    assert read_reply(f"{GOOD}\n{GOOD}") == MALFORMED
    assert read_reply('{\n "question": "Who?",\n "answer": "Nemo"\n}') == MALFORMED


def lines(*texts: str | None) -> list[dict[str, Any]]:
    return [
        {"audio_filepath": f"{n}.wav", "duration": 1.5, "offset": 0.5 * n, "lang": "en", "text": text}
        for n, text in enumerate(texts)
    ]


def by_text(prompts: Sequence[str]) -> list[str]:
    said = [prompt.rpartition("said: ")[2] for prompt in prompts]
    return [
        f'{{"question": "what of {text}", "answer": "{text}"}}' if text != "hm" else "none" for text in said
    ]


def test_a_question_stands_beside_the_original_recording(write_lines: Write, tmp_path: Path) -> None:
    manifest = write_lines(*lines("a", "hm", None, "d"), name="m.jsonl")
    made = make_questions(manifest, tmp_path / "out", QuestionsConfig(), by_text)
    assert made.left_out == {MEANINGLESS: 1, "without a transcript": 1}
    first, second = read_conversations(made.path, check_audio=False)
    (audio,) = first.messages[0].audios
    assert Path(audio.source) == tmp_path / "0.wav"
    assert (audio.offset, audio.duration) == (0.0, 1.5)
    assert "what of a" in first.messages[0].content
    assert first.messages[1].text() == "a"
    assert second.extra == {"task": "qa", "text": "d", "lang": "en"}
    assert second.messages[0].audios[0].offset == 1.5


def asks_first(path: Path) -> list[bool]:
    found = read_conversations(path, check_audio=False)
    return [isinstance(each.messages[0].content[0], str) for each in found]


def test_recording_and_question_change_places_with_the_seed(write_lines: Write, tmp_path: Path) -> None:
    manifest = write_lines(*lines(*"abcdefghijklmnopqrst"), name="m.jsonl")
    made = make_questions(manifest, tmp_path / "out", QuestionsConfig(), by_text)
    first = [
        isinstance(found.messages[0].content[0], str)
        for found in read_conversations(made.path, check_audio=False)
    ]
    assert 3 < sum(first) < 17
    always = make_questions(manifest, tmp_path / "first", QuestionsConfig(audio_first=1.0), by_text)
    assert not any(asks_first(always.path))


def test_an_interrupted_run_asks_only_about_what_is_left(write_lines: Write, tmp_path: Path) -> None:
    manifest = write_lines(*lines(*"abcdefgh"), name="m.jsonl")
    config = QuestionsConfig(batch_size=3)
    whole = make_questions(manifest, tmp_path / "whole", config, by_text)
    calls: list[int] = []

    def failing(prompts: Sequence[str]) -> list[str]:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise AronnaxError("gone")
        return by_text(prompts)

    with pytest.raises(AronnaxError):
        make_questions(manifest, tmp_path / "out", config, failing)
    made = make_questions(manifest, tmp_path / "out", config, failing)
    assert calls == [3, 3, 3, 2]
    assert made.path.read_bytes() == whole.path.read_bytes()
    make_questions(manifest, tmp_path / "out", config, failing)
    assert len(calls) == 4


def test_a_local_model_is_asked_in_batches() -> None:
    class Model:
        def generate(self, conversations: Any, **options: Any) -> list[Any]:
            assert options == {"max_new_tokens": 9, "batch_size": 4}
            return [SimpleNamespace(text=turns[0]["content"].upper()) for turns in conversations]

    assert LocalChat(Model(), max_new_tokens=9, batch_size=4)(["a", "b"]) == ["A", "B"]
    with pytest.raises(OptionError, match="does not write text"):
        LocalChat(object())


def test_a_language_model_of_ours_is_asked() -> None:
    from tests.llm.small import language_model

    replies = LocalChat(language_model(), max_new_tokens=3, batch_size=2)(["a", "b c", "d"])
    assert len(replies) == 3
    assert all(isinstance(reply, str) for reply in replies)


class Server:
    """A local server that gives prepared statuses first, and replies after that."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.slow = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **body})
                outer.keys.append(self.headers.get("Authorization"))
                step = outer.plan.pop(0) if outer.plan else 200
                if step == "slow":
                    outer.slow.wait(5)
                    return
                content = body["messages"][0]["content"]
                answer = {"choices": [{"message": {"content": content.upper()}}]}
                text = "not json" if step == "garbage" else json.dumps(answer)
                status = step if isinstance(step, int) else 200
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.write((text if status == 200 else f"status {status} it is").encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.slow.set()
    made.http.shutdown()
    made.http.server_close()


def test_replies_of_a_server_come_in_order(server: Server) -> None:
    chat = EndpointChat(server.url, "m", "secret", max_new_tokens=7)
    prompts = [f"p{n}" for n in range(20)]
    assert chat(prompts) == [prompt.upper() for prompt in prompts]
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {(request["model"], request["max_tokens"]) for request in server.requests} == {("m", 7)}
    assert set(server.keys) == {"Bearer secret"}
    assert "secret" not in repr(chat)


def test_a_busy_server_is_asked_again_after_growing_pauses_or_the_one_it_names(server: Server) -> None:
    server.plan = [503, 500, 429, "garbage"]
    pauses: list[float] = []
    assert EndpointChat(server.url, "m", pause=pauses.append)(["a"]) == ["A"]
    assert pauses == [1.0, 2.0, 7.0, 8.0]


def test_a_server_that_never_answers_ends_the_run_with_what_to_do(server: Server) -> None:
    server.plan = [503] * 3
    with pytest.raises(
        AronnaxError, match=r"did not answer in 3 attempts: status 503 .*run the same command again"
    ):
        EndpointChat(server.url, "m", retries=2, pause=lambda seconds: None)(["a"])


def test_a_slow_server_is_given_up_and_asked_again(server: Server) -> None:
    server.plan = ["slow"]
    assert EndpointChat(server.url, "m", timeout=0.3, pause=lambda seconds: None)(["a"]) == ["A"]
    assert len(server.requests) == 2


def test_a_refusal_is_not_tried_again(server: Server) -> None:
    server.plan = [401]
    with pytest.raises(AronnaxError, match=r"refuses \(status 401\): status 401 it is"):
        EndpointChat(server.url, "m")(["a"])
    assert len(server.requests) == 1


def test_no_server_at_all_is_said() -> None:
    with pytest.raises(AronnaxError, match="did not answer in 1 attempts: ConnectionRefusedError"):
        EndpointChat("http://127.0.0.1:9/v1", "m", retries=0)(["a"])
    with pytest.raises(OptionError, match="is no address of a server"):
        EndpointChat("localhost:8000", "m")


def test_the_command_takes_its_key_from_the_environment(
    server: Server,
    write_lines: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from aronnax.cli.main import main

    manifest = write_lines(*lines("a", "b"), name="m.jsonl")
    (tmp_path / "p.txt").write_text('{"QUESTION": "{text}"}')
    command = [
        "make-questions",
        str(manifest),
        "--out",
        str(tmp_path / "out"),
        "--model",
        "m",
        "--url",
        server.url,
    ]
    command += ["--key-variable", "MY_KEY", "--prompt", str(tmp_path / "p.txt")]
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(SystemExit):
        main(command)
    assert "MY_KEY: there is no such environment variable" in capsys.readouterr().err
    monkeypatch.setenv("MY_KEY", "secret")
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    assert set(server.keys) == {"Bearer secret"}
    assert f"left out, {MALFORMED}: 2" in capsys.readouterr().out
    assert "secret" not in (tmp_path / "out" / "made.json").read_text()
