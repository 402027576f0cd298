"""Results of recordings on their way to files or to stdout, with progress and an exit status."""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aronnax.cli.output_names import output_names
from aronnax.cli.terminal import around_bar, bar, complain
from aronnax.core.errors import AronnaxError, ManifestError, OptionError

Render = Callable[[Any, str, bool], bytes]
"""A value and the name of a format -> the content of a file; JSON on one line if True."""


class Result(Protocol):
    """What became of one input, as `transcribe_iter` and `diarize_iter` tell it."""

    @property
    def index(self) -> int:
        """Which input it was, in their order."""

    @property
    def source(self) -> str | None:
        """What it is called."""

    @property
    def error(self) -> AronnaxError | None:
        """Why there is no value."""


def check_formats(formats: list[str] | None, known: Sequence[str], out: Path | None) -> list[str]:
    """The formats asked for, the first known one by default; OptionError if they cannot be delivered."""
    wanted = list(dict.fromkeys(formats or known[:1]))
    for name in wanted:
        if name not in known:
            raise OptionError(f"--format {name} is not known: use {', '.join(known)}")
    if len(wanted) > 1 and out is None:
        raise OptionError(f"{len(wanted)} formats cannot be printed together: give --out FOLDER")
    check_folder(out)
    return wanted


def check_folder(out: Path | None) -> None:
    """OptionError if what --out names cannot be a folder, before any work is done for it."""
    if out is not None and out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder")


@dataclass
class Delivery(ABC):
    """Where results go, and how many there were."""

    names: Sequence[str | None]
    formats: Sequence[str]
    render: Render
    done: int = 0
    failed: int = 0

    def take(self, result: Result, value: Any) -> None:
        """Deliver the value of one result, or report why there is none."""
        if result.error is None:
            try:
                self.deliver(result.index, value)
                self.done += 1
                return
            except _Undeliverable as error:
                self._report(result, error.reason)
        else:
            self._report(result, result.error)
        self.failed += 1
        self.deliver(result.index, None)

    def _report(self, result: Result, error: AronnaxError) -> None:
        said = str(error)
        # An error of a manifest names its line.
        named = result.source is None or result.source in said or isinstance(error, ManifestError)
        source = "" if named else f"{result.source}: "
        with around_bar():
            complain(f"{source}{said}")

    @abstractmethod
    def deliver(self, index: int, value: Any) -> None:
        """Write or print one value; None stands for an input that failed."""

    @abstractmethod
    def finish(self) -> str:
        """Deliver what was held back; where the results are, for the last line."""


class Files(Delivery):
    """A file for each result and format, written whole or not at all, as soon as there is one."""

    def __init__(
        self, names: Sequence[str | None], formats: Sequence[str], render: Render, out: Path
    ) -> None:
        super().__init__(names, formats, render)
        self.out = out
        self.files = output_names(names)

    def deliver(self, index: int, value: Any) -> None:
        if value is None:
            return
        for file_format in self.formats:
            try:
                content = self.render(value, file_format, False)
            except AronnaxError as error:
                raise _Undeliverable(error) from error
            _write_whole(self.out / f"{self.files[index]}.{file_format}", content)

    def finish(self) -> str:
        return f" in {self.out}" if self.done else ""


class Printed(Delivery):
    """Results on stdout in the order of the inputs, each as soon as those before it are there.

    Failed ones leave the line `{"source": ..., "error": true}` among JSON, and `gap` among what is not.
    """

    def __init__(
        self, names: Sequence[str | None], file_format: str, render: Render, gap: str = "\n"
    ) -> None:
        super().__init__(names, [file_format], render)
        self.gap = gap
        self.held: dict[int, Any] = {}
        self.next = 0

    def deliver(self, index: int, value: Any) -> None:
        self.held[index] = value
        while self.next in self.held:
            self._print(self.next, self.held.pop(self.next))
            self.next += 1

    def finish(self) -> str:
        for index in sorted(self.held):
            self._print(index, self.held[index])
        return ""

    def _print(self, index: int, value: Any) -> None:
        if value is not None:
            text = self.render(value, self.formats[0], len(self.names) > 1).decode()
        elif self.formats[0] == "json":
            text = json.dumps({"source": self.names[index], "error": True}) + "\n"
        else:
            text = self.gap
        with around_bar():
            sys.stdout.write(text)
            sys.stdout.flush()


class _Undeliverable(Exception):
    """A value that cannot be put into a format."""

    def __init__(self, reason: AronnaxError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass
class Bar:
    """Files and seconds done, shown on a terminal only."""

    total: int
    audio: float = 0.0
    files: int = 0
    started: float = field(default_factory=time.perf_counter)
    shown: Any = None

    def advance(self, seconds: float) -> None:
        """So many seconds of audio more are done."""
        self.audio += seconds
        self._show()

    def finished(self) -> None:
        """One more input is done."""
        self.files += 1
        self._show()

    def _show(self) -> None:
        if self.shown is not None:
            speed = self.audio / max(time.perf_counter() - self.started, 1e-3)
            said = f"{self.audio / 60:.1f} min of audio, {speed:.0f}x real time"
            self.shown.set_description_str(said, refresh=False)
            self.shown.update(self.files - self.shown.n)


def deliver_all(
    results: Callable[[Callable[[float], None]], Generator[Any, None, None]],
    value: Callable[[Any], Any],
    delivery: Delivery,
    what: str,
) -> int:
    """Take every one of the `results`, which are given whom to tell of progress; the exit status."""
    total = len(delivery.names)
    with _hearing_bar(total) as heard:
        try:
            with closing(results(heard.advance)) as found:
                for result in found:
                    delivery.take(result, value(result))
                    heard.finished()
        except KeyboardInterrupt:
            where = delivery.finish()
            print(f"interrupted: {delivery.done} of {total} {what} are done{where}", file=sys.stderr)
            return 130
    where = delivery.finish()
    if where or delivery.failed:
        print(f"{delivery.done} of {total} {what}{where}", file=sys.stderr)
    return 1 if delivery.failed else 0


@contextmanager
def _hearing_bar(total: int) -> Iterator[Bar]:
    with bar(total, "{n_fmt}/{total_fmt} |{bar:30}| {desc} {elapsed}") as shown:
        yield Bar(total, shown=shown)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half-made, also when the process is stopped or the disk is full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}; give another --out") from error
    finally:
        temporary.unlink(missing_ok=True)
