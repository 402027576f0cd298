"""`aronnax make-questions MANIFEST --out DIR`: questions about recordings, written by a language model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.make_spoken import lines_of, report
from aronnax.cli.terminal import bar
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.conversation.makers.chat_models import Chat


def make_questions(
    manifest: Annotated[Path, Argument(help="NeMo manifest of recordings with texts, JSON lines.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for conversations.jsonl.")],
    model: Annotated[
        str,
        Option(
            "--model", "-m", help="A bundled name, folder or hub id; with --url, the server's name for it."
        ),
    ],
    url: Annotated[
        str | None, Option(help="An OpenAI-compatible server, such as http://localhost:8000/v1.")
    ] = None,
    key_variable: Annotated[
        str | None, Option(help="With --url: environment variable that holds the server's key.")
    ] = None,
    prompt: Annotated[
        Path | None, Option(help="File with another request, {text} in place of the transcript.")
    ] = None,
    max_new_tokens: Annotated[int, Option(help="Most tokens of a reply.")] = 512,
    batch_size: Annotated[int, Option(help="Transcripts given to the model at once.")] = 32,
    parallel: Annotated[int, Option(help="With --url: requests under way at once.")] = 8,
    timeout: Annotated[float, Option(help="With --url: seconds that a request may take.")] = 120.0,
    retries: Annotated[int, Option(help="With --url: how often a failed request is sent again.")] = 5,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; the best there is by default.")] = None,
    limit: Annotated[int | None, Option(help="Take no more than so many lines.")] = None,
    seed: Annotated[int, Option(help="Of what stands first, recording or question.")] = 0,
) -> None:
    """Write questions about recordings out of their transcripts: conversations for training.

    A language model reads each transcript and writes one question and its answer as a line of JSON; replies of any
    other form, and `none` for texts without a meaning, leave the recording out. Writes `conversations.jsonl`, to
    train on with {type: conversations, path: ...}. The same command on the same folder goes on where it was stopped.
    """
    from aronnax.collections.speechlm.conversation.makers.chat_models import EndpointChat, LocalChat
    from aronnax.collections.speechlm.conversation.makers.questions import PROMPT, QuestionsConfig
    from aronnax.collections.speechlm.conversation.makers.questions import make_questions as make

    if url is None and key_variable is not None:
        raise OptionError("--key-variable belongs to --url")
    form = PROMPT if prompt is None else prompt.read_text(encoding="utf-8")
    config = QuestionsConfig(form, batch_size=batch_size, seed=seed)
    total = lines_of(manifest, limit)
    chat: Chat
    if url is None:
        from aronnax.core.loading import load

        chat = LocalChat(load(model, device=device), max_new_tokens=max_new_tokens, batch_size=batch_size)
    else:
        chat = EndpointChat(
            url,
            model,
            _key(key_variable),
            max_new_tokens=max_new_tokens,
            timeout=timeout,
            retries=retries,
            parallel=parallel,
        )
    with bar(total, "{l_bar}{bar:30}| {n_fmt}/{total_fmt}, {remaining} left") as shown:
        made = make(
            manifest,
            out,
            config,
            chat,
            model=model,
            limit=limit,
            progress=None if shown is None else shown.update,
        )
    for line in report(made):
        print(line)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise OptionError(f"--key-variable {variable}: there is no such environment variable, or it is empty")
    return key
