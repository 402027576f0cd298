"""Everything `transcribe` takes, opened one recording at a time: paths, arrays, cuts, manifests, folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from aronnax.core.errors import AronnaxError, AudioError, ManifestError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.data.manifest import ManifestEntry

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".mpga", ".amr", ".3gp"}
    | {".mp4", ".mkv", ".mka", ".mov", ".avi", ".webm"}
    | {".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".sph"}
)
"""Files that count as recordings when a folder is given."""

MANIFEST_SUFFIXES = (".json", ".jsonl")

_LINE = frozenset({"audio_filepath", "offset", "duration", "text", "lang"})


class Stream(Protocol):
    """A recording that can be read piece by piece."""

    @property
    def sample_rate(self) -> int:
        """Samples per second it is read at."""

    @property
    def samples(self) -> int:
        """Length in samples."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) as float32 [S]."""

    def close(self) -> None:
        """Let go of the file."""


@dataclass(frozen=True)
class Source:
    """One recording that has not been opened yet.

    `name` is shown in results and errors; `offset` and `duration` in seconds choose an excerpt; `language` is
    what a manifest says of it, `fields` is what else it says, and `place` is the manifest and the line.
    """

    name: str | None
    audio: Any
    sample_rate: int | None = None
    offset: float = 0.0
    duration: float | None = None
    language: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    place: str | None = None

    def open(self, sample_rate: int) -> Stream:
        """The recording, resampled to `sample_rate`; AudioError if it cannot be read."""
        from aronnax.collections.common.audio.reading import open_audio

        audio = self.audio if self.sample_rate is None else (self.audio, self.sample_rate)
        stream = open_audio(audio, sample_rate)
        if not self.offset and self.duration is None:
            return stream
        return Excerpt.of(stream, self, sample_rate)


@dataclass(frozen=True)
class Excerpt:
    """The samples [start, stop) of a recording, counted from 0."""

    stream: Stream
    start: int
    stop: int

    @classmethod
    def of(cls, stream: Stream, source: Source, sample_rate: int) -> Excerpt:
        """The excerpt a source asks for; a duration that runs past the end stops there."""
        start = round(source.offset * sample_rate)
        if not 0 <= start < stream.samples:
            raise AudioError(
                f"{source.name}: offset {source.offset} s is outside the recording,"
                f" which is {stream.samples / sample_rate:.3f} s long"
            )
        wanted = stream.samples if source.duration is None else start + round(source.duration * sample_rate)
        return cls(stream, start, min(wanted, stream.samples))

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.stream.sample_rate

    @property
    def samples(self) -> int:
        """Length of the excerpt."""
        return self.stop - self.start

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of the excerpt."""
        return self.stream.read(self.start + start, self.start + min(stop, self.samples))

    def close(self) -> None:
        """Let go of the file."""
        self.stream.close()


def is_single(x: Any) -> bool:
    """Whether an input is one recording, so that its result is not a list."""
    if isinstance(x, (str, os.PathLike)):
        path = Path(x)
        return not (path.is_dir() or _is_manifest(path))
    if _is_rated_array(x) or _is_cut(x):
        return True
    return isinstance(x, (Source, bytes, bytearray, np.ndarray, torch.Tensor, Mapping)) or hasattr(x, "read")


def sources(x: Any, sample_rate: int | None = None) -> Iterator[Source | AronnaxError]:
    """The recordings of an input, in order and lazily; an error takes the place of what is not understood.

    `sample_rate` is the rate of bare arrays and tensors.
    """
    try:
        if isinstance(x, (Source, AronnaxError)):
            yield x
        elif isinstance(x, (str, os.PathLike)):
            yield from _from_path(Path(x))
        elif _is_rated_array(x):
            yield Source(None, x[0], int(x[1]))
        elif isinstance(x, (np.ndarray, torch.Tensor)):
            yield _from_array(x, sample_rate)
        elif _is_cut(x):
            yield Source(str(x.id), x, fields=_cut_fields(x))
        elif isinstance(x, (bytes, bytearray)) or hasattr(x, "read"):
            yield Source(str(getattr(x, "name", "bytes")), bytes(x) if isinstance(x, bytearray) else x)
        elif isinstance(x, Mapping):
            yield _from_line(x)
        elif isinstance(x, Iterable):
            for item in x:
                yield from sources(item, sample_rate)
        else:
            yield _not_understood(x)
    except AronnaxError as error:
        yield error


def _from_path(path: Path) -> Iterator[Source | AronnaxError]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        if not found:
            raise AudioError(f"{path}: the folder holds no recording (looked for {_suffixes()})")
        yield from (Source(str(file), file) for file in found)
    elif _is_manifest(path):
        yield from _from_manifest(path)
    else:
        yield Source(str(path), path)


def _from_manifest(path: Path) -> Iterator[Source | AronnaxError]:
    """The lines of a manifest; a malformed one is an error in its place, and the others go on."""
    from aronnax.collections.common.data.manifest import parse_entry

    try:
        file = path.open("rb")
    except OSError as error:
        raise ManifestError(f"{path}: the manifest cannot be opened: {error.strerror}") from None
    empty = True
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            empty = False
            try:
                entry = parse_entry(line, path, number)
            except ManifestError as error:
                yield error
                continue
            if entry is not None:
                yield of_entry(entry, path)
    if empty:
        raise ManifestError(f"{path}: the manifest is empty; each line describes one recording")


def of_entry(entry: ManifestEntry, manifest: str | Path) -> Source:
    """The recording that a line of a manifest describes."""
    return Source(
        name=str(Path(entry.audio_filepath)),
        audio=Path(entry.audio_filepath),
        offset=entry.offset,
        duration=entry.duration,
        language=entry.language,
        fields=entry.extra,
        place=f"{manifest}, line {entry.line}",
    )


def _from_line(line: Mapping[str, Any]) -> Source:
    """A manifest line as a mapping, as people pass them from Python."""
    audio = line.get("audio_filepath")
    if not isinstance(audio, (str, os.PathLike)):
        samples = (
            "; pass (x['array'], x['sampling_rate']) of a row of Hugging Face datasets"
            if "array" in line
            else ""
        )
        raise AudioError(
            f"a mapping given as input needs 'audio_filepath'; this one has {sorted(line)}{samples}"
        )
    language = line.get("lang")
    return Source(
        name=str(audio),
        audio=Path(audio),
        offset=float(line.get("offset") or 0.0),
        duration=line.get("duration"),
        language=language if isinstance(language, str) else None,
        fields={key: value for key, value in line.items() if key not in _LINE},
    )


def _cut_fields(cut: Any) -> dict[str, Any]:
    """What a Lhotse cut and its supervisions say beside the usual."""
    said = [getattr(one, "custom", None) or {} for one in (cut, *getattr(cut, "supervisions", ()))]
    return {key: value for custom in said for key, value in custom.items()}


def _from_array(x: np.ndarray | torch.Tensor, sample_rate: int | None) -> Source:
    if sample_rate is None:
        raise AudioError(
            f"an array of shape {tuple(x.shape)} was given without its sample rate:"
            " pass (array, rate) or sample_rate="
        )
    return Source(None, x, sample_rate)


def _not_understood(x: Any) -> AronnaxError:
    return OptionError(
        f"cannot transcribe a {type(x).__name__}: give a path, bytes, an (array, rate) pair, a tensor with"
        " sample_rate=, a Lhotse cut, a manifest, a folder, or a list of these"
    )


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in MANIFEST_SUFFIXES


def _is_rated_array(x: Any) -> bool:
    return (
        isinstance(x, tuple)
        and len(x) == 2
        and isinstance(x[0], (np.ndarray, torch.Tensor))
        and isinstance(x[1], (int, float, np.integer, np.floating))
    )


def _is_cut(x: Any) -> bool:
    # A CutSet passes `load_audio` on to its cuts; only a single recording has an id.
    return callable(getattr(x, "load_audio", None)) and hasattr(x, "id")


def _suffixes() -> str:
    return ", ".join(sorted(AUDIO_SUFFIXES))
