"""What the verbs show on a terminal: errors, progress, and small tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click


def complain(sentence: str) -> None:
    """One sentence on stderr, red on a terminal."""
    click.secho(f"error: {sentence}", fg="red", err=True)


@contextmanager
def bar(total: float | None, layout: str) -> Iterator[Any]:
    """A tqdm bar on stderr that leaves nothing behind, or None where nobody sits before it."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, bar_format=layout, leave=False, dynamic_ncols=True, miniters=0) as shown:
        yield shown


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, where someone sits before it."""
    with bar(None, "{desc} ({elapsed})") as shown:
        yield (lambda line: None) if shown is None else shown.set_description_str


@contextmanager
def around_bar() -> Iterator[None]:
    """Lines printed meanwhile stand above the bar that is shown."""
    if not sys.stderr.isatty():
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(sys.stdout if sys.stdout.isatty() else sys.stderr):
        yield


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], named: bool = True, gap: int = 2
) -> list[str]:
    """Lines of a table, aligned to the right; the first column to the left if it is `named`."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        (" " * gap)
        .join(
            cell.ljust(width) if named and not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        .rstrip()
        for row in cells
    ]
