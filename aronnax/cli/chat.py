"""`aronnax chat`: a conversation with a language model in the terminal, recordings within it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aronnax.cli.commands import Option
from aronnax.cli.talking import Asked, default_model, parts_of
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.llm.chat.messages import Message

HELP = """\
Type a message and Enter. @file.wav anywhere in it is a recording (@"my file.wav" where its name has blanks).
/reset       begin a new conversation
/save FILE   write the conversation to FILE, as JSON lines that training reads
/help        this page
/quit        leave (as does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    model: Annotated[
        str | None, Option("--model", "-m", help="Bundled name, folder or hub id; a bundled one by default.")
    ] = None,
    system: Annotated[str | None, Option(help="System message before everything.")] = None,
    max_new_tokens: Annotated[int, Option(help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float, Option(help="0: the likeliest tokens; above: drawn.")] = 0.0,
    top_k: Annotated[int | None, Option(help="Draw among so many tokens.")] = None,
    top_p: Annotated[
        float | None, Option(help="Draw among the tokens with this probability together.")
    ] = None,
    seed: Annotated[int | None, Option(help="Makes drawing repeatable.")] = None,
    stop: Annotated[list[str] | None, Option(help="Text that ends an answer; may be repeated.")] = None,
    adapter: Annotated[str | None, Option(help="LoRA adapter by name, or none.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16.")] = None,
) -> None:
    """Talk with a language model; it answers token by token and remembers the conversation.

    Put recordings into a message as @file.wav, anywhere and as many as you like; the model must have ears for them.
    /help lists the commands. Where standard input is not a terminal, each line is a message and each answer is
    printed on a line; a message that fails is reported, is forgotten, and makes the exit status 1.
    """
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "adapter": adapter,
        "log_probs": False,
    }
    asked = Asked(model, device, dtype, options)
    talk = Talk(asked.load(), asked.given(), system)
    talk.check()
    if sys.stdin.isatty():
        ears = "text and @recordings" if getattr(talk.model, "hears", False) else "text"
        print(f"{model or default_model()} reads {ears}; /help for help")
        raise SystemExit(talk.run(_typed()))
    raise SystemExit(talk.run(line.rstrip("\n") for line in sys.stdin))


class Talk:
    """One conversation after another with one model."""

    def __init__(self, model: Any, options: dict[str, Any], system: str | None = None) -> None:
        self.model = model
        self.options = options
        self.system = system
        self.messages: list[Message] = []
        self.reset()

    def check(self) -> None:
        """OptionError if the model cannot be told the system message, before anything is asked."""
        from aronnax.collections.llm.chat.messages import Message

        if self.system is None:
            return
        try:
            self.model.text.render([*self.messages, Message("user", (self.system,))])
        except OptionError as error:
            raise OptionError(f"--system: {error}") from None

    def run(self, lines: Iterator[str]) -> int:
        """Answer lines until they end or /quit; the exit status, 1 if a message failed."""
        from aronnax.cli.terminal import complain

        status = 0
        for line in lines:
            if line.strip() == "/quit":
                break
            try:
                self.take(line.strip())
            except AronnaxError as error:
                complain(str(error))
                status = 1
        return 0 if sys.stdin.isatty() else status

    def take(self, line: str) -> None:
        """Obey a command, or answer a message."""
        command, _, rest = line.partition(" ")
        if command == "/reset":
            self.reset()
        elif command == "/help":
            print(HELP)
        elif command == "/save":
            self.save(rest.strip())
        elif command.startswith("/") and command[1:].isalpha():
            raise OptionError(f"{command} is no command: /reset, /save FILE, /help, /quit")
        elif line:
            self.answer(line)

    def reset(self) -> None:
        """Forget everything but the system message."""
        from aronnax.collections.llm.chat.messages import Message

        self.messages = [] if self.system is None else [Message("system", (self.system,))]

    def answer(self, line: str) -> None:
        """Print the answer as it comes; a message that fails, or whose answer is stopped, is forgotten."""
        from aronnax.collections.llm.chat.messages import Message

        asked = Message("user", tuple(parts_of(line)))
        reply = None
        try:
            for piece in self.model.generate_stream([*self.messages, asked], **self.options):
                print(piece.text, end="", flush=True)
                reply = piece.reply
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print(flush=True)
        if reply is not None:
            self.messages += [asked, Message("assistant", (reply.text,))]

    def save(self, name: str) -> None:
        """Write the conversation as one line of JSON."""
        from aronnax.collections.speechlm.conversation.reading import Conversation, write_conversations

        if not name:
            raise OptionError("/save needs a file: /save talk.jsonl")
        if not any(message.role == "assistant" for message in self.messages):
            raise OptionError("there is nothing to save yet")
        path = Path(name).expanduser()
        try:
            write_conversations(path, [Conversation(path.stem, tuple(self.messages))])
        except OSError as error:
            raise OptionError(f"{path} cannot be written: {error.strerror}") from None
        print(f"saved to {path}")


def _typed() -> Iterator[str]:
    """Lines from the terminal, with a history where the system has one."""
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
