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
    "diarize": "Find who speaks when, in recordings or live.",
    "ask": "Ask a language model one question, about recordings too.",
    "chat": "Talk with a language model, with recordings in the conversation.",
    "align": "Find when each word of a known text is said.",
    "train": "Train or fine-tune a model from a YAML configuration.",
    "evaluate": "Score a model on a manifest: WER and CER with their parts.",
    "prepare": "Write manifests or Lhotse cuts for a corpus or a folder.",
    "simulate": "Make sessions of several speakers out of recordings of single ones.",
    "make-spoken": "Speak parts of written questions: conversations of text and speech.",
    "make-questions": "Have a language model write questions about recordings.",
    "tokenizer": "Train a SentencePiece tokenizer on manifests.",
    "bins": "Estimate duration buckets for a data set.",
    "convert": "Convert a checkpoint between .nemo and an aronnax folder.",
    "info": "Describe any checkpoint.",
    "demo": "See it work: transcribe, tell speakers apart, draw, fine-tune, in two minutes.",
}


def _load(verb: str) -> Callable[..., None]:
    name = verb.replace("-", "_")
    command: Callable[..., None] = getattr(import_module(f"aronnax.cli.{name}"), name)
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; errors raised on purpose become one sentence on stderr and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"aronnax {__version__}")
        return
    import click

    from aronnax.cli.commands import WIDTH, command
    from aronnax.cli.terminal import complain

    class Verbs(click.Group):
        """Loads the verb that is asked for, and lists all."""

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            return command(_load(name)) if name in VERBS else None

        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(VERBS)

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Verbs"):
                formatter.write_dl(list(VERBS.items()))

    app = Verbs(
        help="Run, train and study public speech models.",
        params=[click.Option(["--version"], is_flag=True, help="Print the version and stop.")],
        subcommand_metavar="VERB ...",
        epilog="`aronnax VERB --help` is a verb's manual.",
        context_settings={"max_content_width": WIDTH},
    )
    try:
        stopped = app.main(arguments or ["--help"], "aronnax", standalone_mode=False)
        sys.exit(stopped or (0 if arguments else 2))
    except click.UsageError as error:
        manual = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        complain(f"{error.format_message().rstrip('.')}{manual}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        complain(error.format_message())
        sys.exit(error.exit_code)
    except AronnaxError as error:
        complain(str(error))
        sys.exit(2)
    except OSError as error:
        # A folder without permission, a file where a folder belongs; what names no file is a mistake of ours.
        if error.filename is None:
            raise
        complain(f"{error.filename}: {error.strerror}")
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
