"""Typed functions as commands, and what the verbs show on a terminal."""

import io
import sys
from pathlib import Path
from typing import Annotated

import pytest

from aronnax.cli import terminal
from aronnax.cli.commands import Argument, Option, command

SEEN = {}


def verb(
    first: Annotated[Path, Argument(help="A path.")],
    rest: Annotated[list[str] | None, Argument(help="What is left.")] = None,
    count: Annotated[int, Option("--count", "-n", help="How many.")] = 3,
    tag: Annotated[list[str] | None, Option(help="A tag.")] = None,
    lower: Annotated[bool, Option(help="Lower.")] = False,
    marks: Annotated[bool | None, Option("--marks/--no-marks", help="Marks.")] = None,
    share: Annotated[float | None, Option(help="Share.")] = None,
) -> None:
    """Do it."""
    SEEN.update(locals())


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("a", {}),
        ("a b c", {"rest": ["b", "c"]}),
        ("a -n 5 --tag x --tag y", {"count": 5, "tag": ["x", "y"]}),
        ("a --lower --no-marks --share 0.5", {"lower": True, "marks": False, "share": 0.5}),
        ("a --marks", {"marks": True}),
    ],
)
def test_a_function_is_called_with_typed_values(arguments, given):
    command(verb).main(arguments.split(), standalone_mode=False)
    plain = {"rest": None, "count": 3, "tag": None, "lower": False, "marks": None, "share": None}
    assert {"first": Path("a"), **plain, **given} == SEEN


def test_the_manual_explains_arguments_and_defaults(capsys):
    command(verb).main(["--help"], "verb", standalone_mode=False)
    page = " ".join(capsys.readouterr().out.split())
    assert "Usage: verb [OPTIONS] FIRST [REST...] Do it." in page
    assert "FIRST A path. [REST...] What is left." in page
    assert "-n, --count INTEGER How many. [default: 3]" in page
    assert "--lower Lower. --marks / --no-marks Marks." in page


def test_tables_are_aligned_to_the_right():
    rows = [("en", 6, "1.50", ""), ("en-de", 12, "10.25", "30.1")]
    assert terminal.table(("", "rows", "WER %", "BLEU"), rows) == [
        "       rows  WER %  BLEU",
        "en        6   1.50",
        "en-de    12  10.25  30.1",
    ]
    assert terminal.table(("s", "n"), [(1, 10)], named=False) == ["s   n", "1  10"]


class Terminal(io.StringIO):
    """A stream that someone sits before."""

    def isatty(self) -> bool:
        return True


def test_progress_is_silent_in_a_pipe(capsys):
    with terminal.bar(2, "{n_fmt}/{total_fmt}") as shown, terminal.status() as say:
        say("looking")
        assert shown is None
    terminal.complain("no such file")
    assert capsys.readouterr().err == "error: no such file\n"


def test_progress_and_errors_are_seen_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.bar(2, "{n_fmt}/{total_fmt} {desc}") as shown:
        shown.set_description_str("half", refresh=False)
        shown.update(1)
        shown.refresh()
        with terminal.around_bar():
            terminal.complain("one is missing")
    with terminal.status() as say:
        say("looking")
    assert "1/2 half" in screen.getvalue()
    assert "\033[31merror: one is missing" in screen.getvalue()
    assert "looking (" in screen.getvalue()
