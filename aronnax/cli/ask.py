"""`aronnax ask`: one question, with or without recordings, and its answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aronnax.cli.commands import Argument, Option
from aronnax.cli.talking import Asked, parts_of
from aronnax.core.errors import AudioError, OptionError
from aronnax.core.files import replaced_file

if TYPE_CHECKING:
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.llm.chat.messages import Audio

FORMATS = ("txt", "json")


def ask(
    question: Annotated[str, Argument(help="What is asked; @file.wav in it is a recording, - reads stdin.")],
    recordings: Annotated[
        list[str] | None, Argument(help="Recordings that stand after the question.")
    ] = None,
    model: Annotated[
        str | None, Option("--model", "-m", help="Bundled name, folder or hub id; a bundled one by default.")
    ] = None,
    file_format: Annotated[str, Option("--format", "-f", help="txt or json.")] = "txt",
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for the answers.")] = None,
    each: Annotated[bool, Option("--each", help="Ask about every recording by itself.")] = False,
    system: Annotated[str | None, Option(help="System message before the question.")] = None,
    max_new_tokens: Annotated[int, Option(help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, Option(help="0: the likeliest tokens; above: drawn.")] = 0.0,
    top_k: Annotated[int | None, Option(help="Draw among so many tokens.")] = None,
    top_p: Annotated[
        float | None, Option(help="Draw among the tokens with this probability together.")
    ] = None,
    seed: Annotated[int | None, Option(help="Makes drawing repeatable.")] = None,
    stop: Annotated[list[str] | None, Option(help="Text that ends an answer; may be repeated.")] = None,
    beam: Annotated[int, Option(help="Hypotheses kept; 1 is greedy.")] = 1,
    adapter: Annotated[str | None, Option(help="LoRA adapter by name, or none.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16.")] = None,
) -> None:
    """Ask a language model, with or without ears, and print its answer.

    Recordings stand after the question, or in it as @file.wav. The answer is printed as text, or as one JSON object
    with --format json: its text, tokens, their times and log-probabilities. With --out it is written to
    OUT/<stem of the recording>.<format>, or OUT/answer.<format> without one.

    With --each every recording is a question of its own; one that cannot be read is reported and the others go on:
    exit status 1.
    """
    if file_format not in FORMATS:
        raise OptionError(f"--format {file_format} is not known: use {' or '.join(FORMATS)}")
    if each and not recordings:
        raise OptionError("--each asks about every recording by itself: name some")
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "beam": beam,
        "adapter": adapter,
        "log_probs": file_format == "json" or beam > 1,
    }
    text = sys.stdin.read().strip() if question == "-" else question
    if not text:
        raise OptionError("the question is empty")
    asked = Asked(model, device, dtype, options)
    answers = _Answers(file_format, out)
    if not each:
        name = Path(recordings[0]).stem if recordings else "answer"
        answers.give(_answer(asked.load(), text, recordings or [], system, asked), name)
        return
    assert recordings is not None
    raise SystemExit(_each(asked, text, recordings, system, answers))


def _each(asked: Asked, text: str, recordings: list[str], system: str | None, answers: _Answers) -> int:
    """Ask about every recording by itself; the exit status."""
    from aronnax.cli.output_names import output_names
    from aronnax.cli.terminal import complain

    model, failed = asked.load(), 0
    for recording, name in zip(recordings, output_names(recordings)):
        try:
            answers.give(_answer(model, text, [recording], system, asked), name)
        except AudioError as error:
            complain(str(error))
            failed += 1
    answers.finish(len(recordings), failed)
    return 1 if failed else 0


def _answer(model: Any, text: str, recordings: list[str], system: str | None, asked: Asked) -> Reply:
    content = [*parts_of(text), *(_recording(name) for name in recordings)]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    reply: Reply = model.generate(messages, **asked.given())
    return reply


def _recording(name: str) -> Audio:
    from aronnax.collections.llm.chat.messages import Audio

    if not Path(name).expanduser().is_file():
        raise AudioError(f"there is no recording {name}")
    return Audio(str(Path(name).expanduser()))


class _Answers:
    """Prints answers, or writes them into a folder."""

    def __init__(self, file_format: str, out: Path | None) -> None:
        self.file_format = file_format
        self.out = out
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OptionError(f"--out {out} cannot be made: {error.strerror}") from None

    def finish(self, total: int, failed: int) -> None:
        """Say where answers of `total` questions are, and how many; nothing where all are printed."""
        where = f" in {self.out}" if self.out is not None and failed < total else ""
        if where or failed:
            print(f"{total - failed} of {total} answers{where}", file=sys.stderr)

    def give(self, reply: Reply, name: str) -> None:
        """Deliver one answer, its notes on stderr; `name` is its file's, without the format."""
        for note in reply.notes:
            print(f"{name}: {note}", file=sys.stderr)
        written = reply.text if self.file_format == "txt" else json.dumps(reply.to_dict(), ensure_ascii=False)
        if self.out is None:
            print(written, flush=True)
            return
        target = self.out / f"{name}.{self.file_format}"
        with replaced_file(target) as file:
            file.write(f"{written}\n".encode())
