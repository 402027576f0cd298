"""What has been made so far, kept so that a run that is stopped anywhere goes on where it was.

A folder of made conversations holds `conversations.jsonl`, there once all is done; `made.json`, how it was made; and
until then `journal.jsonl`, a line for each line of the source that is finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aronnax.core.errors import OptionError
from aronnax.core.files import replaced_file

CONVERSATIONS, RECORD, JOURNAL = "conversations.jsonl", "made.json", "journal.jsonl"


@dataclass
class Made:
    """What came of a source."""

    path: Path
    """The conversations."""
    conversations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Lines of the source of which nothing was made, by reason."""


class Journal:
    """The finished lines of a source, in a folder; one process at a time may write to it.

    Raises OptionError when the folder holds conversations that were made in another way.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Begin, or go on in, a folder; OptionError if what it holds was made with other settings."""
        self.folder, self._path = folder, folder / JOURNAL
        self.made = Made(folder / CONVERSATIONS)
        record, text = folder / RECORD, json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
        if record.is_file() and record.read_text("utf-8") != text:
            raise OptionError(
                f"{folder} holds conversations made with other options (see {record}): choose another --out"
            )
        self.complete = record.is_file() and self.made.path.is_file()
        if self.complete:
            self._count_complete()
            return
        with replaced_file(record) as file:
            file.write(text.encode())
        self._last = self._recover()

    def __contains__(self, number: int) -> bool:
        """Whether that line of the source is finished; lines are finished in order."""
        return self.complete or number <= self._last

    def add(self, number: int, rows: Sequence[Mapping[str, Any]], reason: str = "") -> None:
        """A line of the source is finished: what was made of it, or why nothing was."""
        line = json.dumps({"source": number, "rows": list(rows), "reason": reason}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._last = number
        self._count(rows, reason)

    def finish(self) -> Made:
        """Write the conversations, all at once, and count them."""
        if not self.complete:
            with replaced_file(self.made.path) as file:
                for entry in self._entries():
                    for row in entry["rows"]:
                        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            self._path.unlink(missing_ok=True)
            self.complete = True
        return self.made

    def _count(self, rows: Sequence[Any], reason: str) -> None:
        self.made.conversations += len(rows)
        if reason:
            self.made.left_out[reason] += 1

    def _count_complete(self) -> None:
        with self.made.path.open("rb") as file:
            self.made.conversations = sum(1 for line in file if line.strip())

    def _recover(self) -> int:
        """The last finished line, after cutting off one that was being written when the run was stopped."""
        last, whole = 0, 0
        for entry in self._entries():
            last, whole = entry["source"], entry["end"]
            self._count(entry["rows"], entry["reason"])
        if self._path.is_file() and self._path.stat().st_size > whole:
            with self._path.open("rb+") as file:
                file.truncate(whole)
        return last

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The lines of the journal up to the first that is not whole, each with the byte where it ends."""
        if not self._path.is_file():
            return
        end = 0
        with self._path.open("rb") as file:
            for line in file:
                end += len(line)
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    return
                if not isinstance(entry, dict):
                    return
                yield {**entry, "end": end}
