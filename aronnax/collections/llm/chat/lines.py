"""The lines of a file of conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aronnax.core.errors import ManifestError


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The number, from 1, and the bytes of each line that is not blank; ManifestError for a file without any.

    Raises ManifestError as well for a file that cannot be opened.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ManifestError(f"{path}: the conversations cannot be opened: {error.strerror}") from None
    found = False
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                found = True
                yield number, line
    if not found:
        raise ManifestError(f"{path}: the file is empty; each line holds one conversation")
