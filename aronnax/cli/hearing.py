"""What the verbs that turn recordings into text share: inputs, delivery of results, progress, exit status."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.cli.output_names import output_names
from aronnax.cli.terminal import around_bar, bar, complain
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.results import Transcript


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is loaded."""

    name: str
    device: str | None
    dtype: str | None
    weights: str | None


def hear(
    inputs: Sequence[str],
    loading: Loading,
    formats: list[str] | None,
    out: Path | None,
    options: dict[str, Any],
    asked: Mapping[str, Any],
    verbose: bool = False,
) -> int:
    """Turn all inputs into text and deliver it; the exit status.

    `options` are those of every recogniser, `asked` those of the models that take prompts, None where not given.
    """
    from aronnax.collections.asr.inputs import sources

    _say_what_is_logged(verbose)
    wanted = _formats(formats, out)
    options["chunk"] = _chunk(options["chunk"])
    if options["confidence"] == "none":
        options["confidence"] = None
    recogniser = _load(loading.name, loading.device, _dtype(loading.dtype), loading.weights)
    options |= _prompt_options(recogniser, loading.name, asked)
    found = list(sources([_stdin() if name == "-" else name for name in inputs]))
    names = [None if isinstance(source, AronnaxError) else source.name for source in found]
    delivery = _Files(names, wanted, out) if out else _Printed(names, wanted[0])
    return _run(recogniser, found, options, delivery)


def _prompt_options(recogniser: SpeechRecognizer, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; OptionError if the model cannot be asked such things."""
    given = {key: value for key, value in asked.items() if value is not None}
    refused = given.keys() - {"timestamps"}  # an option of every recogniser
    if refused and not recogniser.slots:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in given if key in refused)
        raise OptionError(
            f"{name} is a {recogniser.model_type} model and takes no prompt, so {options} cannot be given;"
            " encoder-decoders such as nvidia/canary-1b-flash take one"
        )
    return given


@dataclass
class _Delivery(ABC):
    """Where results go, and how many there were."""

    names: Sequence[str | None]
    formats: Sequence[str]
    done: int = 0
    failed: int = 0

    def take(self, result: Result) -> None:
        """Deliver one result, or report why there is none."""
        if result.error is None and result.transcript is not None:
            self.deliver(result.index, result.transcript)
            self.done += 1
            return
        self.failed += 1
        said = str(result.error)
        source = "" if result.source is None or result.source in said else f"{result.source}: "
        with around_bar():
            complain(f"{source}{said}")
        self.deliver(result.index, None)

    @abstractmethod
    def deliver(self, index: int, transcript: Transcript | None) -> None:
        """Write or print one transcript; None stands for an input that failed."""

    @abstractmethod
    def finish(self) -> str:
        """Deliver what was held back; where the results are, for the last line."""


class _Files(_Delivery):
    """A file for each result and format, written whole or not at all, as soon as there is one."""

    def __init__(self, names: Sequence[str | None], formats: Sequence[str], out: Path) -> None:
        super().__init__(names, formats)
        self.out = out
        self.files = output_names(names)

    def deliver(self, index: int, transcript: Transcript | None) -> None:
        from aronnax.collections.common.results import write

        if transcript is None:
            return
        for file_format in self.formats:
            path = self.out / f"{self.files[index]}.{file_format}"
            _write_whole(path, write(transcript, file_format).encode())

    def finish(self) -> str:
        return f" in {self.out}" if self.done else ""


class _Printed(_Delivery):
    """Results on stdout in the order of the inputs, each as soon as those before it are there."""

    def __init__(self, names: Sequence[str | None], file_format: str) -> None:
        super().__init__(names, [file_format])
        if file_format in ("srt", "vtt") and len(names) > 1:
            raise OptionError(
                f"{len(names)} inputs cannot be printed as one {file_format}: give --out FOLDER"
            )
        self.held: dict[int, Transcript | None] = {}
        self.next = 0

    def deliver(self, index: int, transcript: Transcript | None) -> None:
        self.held[index] = transcript
        while self.next in self.held:
            self._print(self.next, self.held.pop(self.next))
            self.next += 1

    def finish(self) -> str:
        for index in sorted(self.held):
            self._print(index, self.held[index])
        return ""

    def _print(self, index: int, transcript: Transcript | None) -> None:
        from aronnax.collections.common.results import write

        file_format = self.formats[0]
        if transcript is None:
            line = (
                json.dumps({"source": self.names[index], "error": True}) + "\n"
                if file_format == "json"
                else "\n"
            )
        elif file_format == "json" and len(self.names) > 1:
            line = json.dumps(transcript.to_dict(), ensure_ascii=False) + "\n"
        else:
            line = write(transcript, file_format)
        with around_bar():
            sys.stdout.write(line)
            sys.stdout.flush()


@dataclass
class _Bar:
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


@contextmanager
def _hearing_bar(total: int) -> Iterator[_Bar]:
    with bar(total, "{n_fmt}/{total_fmt} |{bar:30}| {desc} {elapsed}") as shown:
        yield _Bar(total, shown=shown)


def _run(recogniser: SpeechRecognizer, found: list[Any], options: dict[str, Any], delivery: _Delivery) -> int:
    """Transcribe everything; the exit status."""
    with _hearing_bar(len(found)) as heard:
        try:
            with closing(recogniser.transcribe_iter(found, progress=heard.advance, **options)) as results:
                for result in results:
                    delivery.take(result)
                    heard.finished()
        except KeyboardInterrupt:
            where = delivery.finish()
            print(
                f"interrupted: {delivery.done} of {len(found)} transcripts are done{where}", file=sys.stderr
            )
            return 130
    where = delivery.finish()
    if where or delivery.failed:
        print(f"{delivery.done} of {len(found)} transcripts{where}", file=sys.stderr)
    return 1 if delivery.failed else 0


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


def _load(name: str, device: str | None, dtype: Any, weights: str | None) -> SpeechRecognizer:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.core.loading import load

    model = load(name, device=device, dtype=dtype, weights=weights)
    if not isinstance(model, SpeechRecognizer):
        raise OptionError(f"{name} holds a {type(model).__name__}, which does not transcribe")
    return model


def _say_what_is_logged(verbose: bool) -> None:
    """Messages of the package on stderr: a download's size and licence always, how inputs are read if asked."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("aronnax")
    package.addHandler(handler)
    package.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("aronnax.core.hub").setLevel(logging.INFO)


def _formats(formats: list[str] | None, out: Path | None) -> list[str]:
    from aronnax.collections.common.results import FORMATS

    wanted = list(dict.fromkeys(formats or ["txt"]))
    for name in wanted:
        if name not in FORMATS:
            raise OptionError(f"--format {name} is not known: use {', '.join(FORMATS)}")
    if len(wanted) > 1 and out is None:
        raise OptionError(f"{len(wanted)} formats cannot be printed together: give --out FOLDER")
    if out is not None and out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder")
    return wanted


def _chunk(chunk: str) -> str | float:
    if chunk in ("auto", "full", "local"):
        return chunk
    try:
        return float(chunk)
    except ValueError:
        raise OptionError(f"--chunk {chunk} is not known: use auto, full, local or seconds") from None


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise OptionError(f"--dtype {name} is not known: use {', '.join(known)}")
    return known[name]


def _stdin() -> Any:
    from aronnax.collections.asr.inputs import Source

    return Source("stdin", sys.stdin.buffer.read())
