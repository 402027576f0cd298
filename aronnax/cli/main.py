"""The `aronnax` command: one verb a file, and only the verb that is asked for is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from aronnax import __version__
from aronnax.core.errors import AronnaxError

# verb -> what `aronnax --help` says of it; the verb's own module holds the rest of its manual.
VERBS = {
    "transcribe": "Turn recordings into text with word times and confidences.",
    "translate": "Turn recordings in one language into text in another.",
    "align": "Find when each word of a known text is said.",
    "train": "Train or fine-tune a model from a YAML configuration.",
    "evaluate": "Score a model on a manifest: WER and CER with their parts.",
    "prepare": "Write manifests or Lhotse cuts for a corpus or a folder.",
    "tokenizer": "Train a SentencePiece tokenizer on manifests.",
    "bins": "Estimate duration buckets for a data set.",
    "convert": "Convert a checkpoint between .nemo and an aronnax folder.",
    "info": "Describe any checkpoint.",
    "demo": "See it work: transcribe, draw, fine-tune, in a minute or two.",
}


def _load(verb: str) -> Callable[..., None]:
    command: Callable[..., None] = getattr(import_module(f"aronnax.cli.{verb}"), verb)
    return command


def _placeholder(summary: str) -> Callable[[], None]:
    """A command that only lists itself in the help page; it is never run, since its verb would have been loaded."""

    def command() -> None: ...

    command.__doc__ = summary
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; errors raised on purpose become one sentence on stderr and exit status 2."""
    import typer

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"aronnax {__version__}")
        return
    asked = next((word for word in arguments if not word.startswith("-")), None)
    app = typer.Typer(
        name="aronnax",
        help="Run, train and study public speech models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    ) -> None: ...

    try:
        for verb, summary in VERBS.items():
            command = _load(verb) if verb == asked else _placeholder(summary)
            app.command(verb)(command)
        app(args=arguments, prog_name="aronnax")
    except AronnaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
