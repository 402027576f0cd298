"""`aronnax make-spoken CONVERSATIONS --out DIR`: parts of written questions spoken by a synthesiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aronnax.cli.commands import Argument, Option
from aronnax.cli.terminal import bar
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.conversation.makers.journal import Made


def make_spoken(
    conversations: Annotated[Path, Argument(help="Conversations without audio, JSON lines.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for audio/ and conversations.jsonl.")],
    voices: Annotated[
        str, Option(help="Voices of espeak-ng, with commas between them; speakers are drawn for each.")
    ] = "en-us,en-gb,en-gb-scotland",
    categories: Annotated[
        str | None,
        Option(
            help="Values of task_category to take, with commas; `all`. Default: all but maths and programs."
        ),
    ] = None,
    language: Annotated[str, Option(help="Take lines whose `language` is this, or that have none.")] = "en",
    tokenizer: Annotated[
        Path | None,
        Option(help="Folder with a tokenizer.json that counts tokens; words are counted without."),
    ] = None,
    question_tokens: Annotated[int, Option(help="Leave out questions of so many tokens or more.")] = 128,
    answer_tokens: Annotated[int, Option(help="Leave out answers of so many tokens or more.")] = 1024,
    max_seconds: Annotated[float, Option(help="Leave out questions with a longer recording.")] = 40.0,
    rate: Annotated[int, Option(help="Samples a second.")] = 16000,
    limit: Annotated[int | None, Option(help="Take no more than so many lines.")] = None,
    seed: Annotated[int, Option(help="Another one gives other spans and speakers.")] = 0,
) -> None:
    """Speak parts of written questions: conversations of text and speech for training.

    Each question gets up to two versions, in which some of its sentences in a row are replaced by one recording of
    them. Writes FLAC files and `conversations.jsonl`, to train on with {type: conversations, path: ...}. The same
    command on the same folder goes on where it was stopped.
    """
    from aronnax.collections.speechlm.conversation.makers.spoken import CATEGORIES, SpokenConfig
    from aronnax.collections.speechlm.conversation.makers.spoken import make_spoken as make
    from aronnax.collections.speechlm.conversation.makers.voices import EspeakVoices

    taken = CATEGORIES if categories is None else () if categories == "all" else _listed(categories)
    config = SpokenConfig(
        taken, language, question_tokens, answer_tokens, (0.1, max_seconds), sample_rate=rate, seed=seed
    )
    count = None if tokenizer is None else token_counter(tokenizer)
    languages = _listed(voices)
    with bar(
        lines_of(conversations, limit), "{l_bar}{bar:30}| {n_fmt}/{total_fmt}, {remaining} left"
    ) as shown:
        made = make(
            conversations,
            out,
            config,
            EspeakVoices(languages),
            voices=f"espeak-ng {','.join(languages)}",
            count_tokens=count,
            limit=limit,
            progress=None if shown is None else shown.update,
        )
    for line in report(made):
        print(line)


def lines_of(path: Path, limit: int | None) -> int:
    """How many lines a file has, up to a limit; OptionError where there is no such file."""
    if not path.is_file():
        raise OptionError(f"{path}: no such file")
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    return count if limit is None else min(count, limit)


def report(made: Made) -> list[str]:
    """What a user reads of conversations that were made."""
    lines = [f"{made.path}: {made.conversations} conversations"]
    lines += [f"left out, {reason}: {count}" for reason, count in made.left_out.most_common()]
    return [*lines, f"train with data.train=[{{type: conversations, path: {made.path}}}]"]


def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text; OptionError where the folder has no tokenizer."""
    from aronnax.collections.llm.chat.tokenizer import TOKENIZER, ChatTokenizer

    file = folder / TOKENIZER
    if not file.is_file():
        raise OptionError(
            f"--tokenizer {folder} has no {TOKENIZER}: name the folder of a language model or of its tokenizer"
        )
    tokenizer = ChatTokenizer({TOKENIZER: file.read_bytes()}, prompt_format="plain")
    return lambda text: len(tokenizer.encode(text))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
