"""Every command that the README and the pages show is one that `aronnax` takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from aronnax.cli.commands import command
from aronnax.cli.main import VERBS, _load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = ("", "console", "sh", "bash")


def commands_of(page: Path) -> list[str]:
    """The `aronnax` commands in the blocks of a page, one string each; what follows a pipe is the next one."""
    found = []
    for language, block in BLOCK.findall(page.read_text("utf-8")):
        if language not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            found += [part.strip().removeprefix("$ ") for part in re.split(r" \| ", line)]
    return [line for line in found if line.startswith("aronnax ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_are_understood(page: Path) -> None:
    for line in commands_of(page):
        # [--option VALUE] may be left out; in a test it is not.
        _, verb, *arguments = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True)
        if verb == "VERB" or "--help" in arguments:
            continue
        assert verb in VERBS, line
        try:
            command(_load(verb)).make_context(f"aronnax {verb}", arguments)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: {line}\n{error.format_message()}")


def test_pages_do_show_commands() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 80
