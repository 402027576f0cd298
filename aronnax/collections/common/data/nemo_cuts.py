"""NeMo manifests as cuts, plain or with the audio in tar archives; lines are read when they are needed."""

from __future__ import annotations

import logging
import os
import random
import re
import tarfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from lhotse import AudioSource, Recording
from lhotse.cut import Cut

from aronnax.collections.common.audio.reading import probe
from aronnax.collections.common.data.config import InputConfig
from aronnax.collections.common.data.manifest import ManifestEntry, parse_entry
from aronnax.collections.common.data.recordings import (
    TarAudioSource,
    cut_of,
    file_source,
    probe_bytes,
)
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.slots import fill_slots
from aronnax.core.errors import AudioError, ManifestError

logger = logging.getLogger(__name__)

_RANGE = re.compile(r"(?:\{|_OP_)(\d+)\.\.(\d+)(?:\}|_CL_)")
_SHARD = re.compile(r"(?:manifest|audio)[^/]*_(\d+)[^/]*\.(?:json|jsonl|tar)$")
_SUBSEGMENT = re.compile(r"-sub\d+$")
_TIMES = ("sampling_rate", "sample_rate", "num_channels")


def expand(path: str) -> list[str]:
    """Paths that `_OP_0..3_CL_` or `{0..3}` stand for; leading zeros keep their width."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found[1], found[2]
    width = len(first) if first.startswith("0") else 0
    numbers = range(int(first), int(last) + 1)
    return [
        full
        for number in numbers
        for full in expand(f"{path[: found.start()]}{number:0{width}d}{path[found.end() :]}")
    ]


class JsonLines(ABC):
    """Cuts of one or more files with a JSON object a line; every pass reads them in a fresh order when shuffled.

    Only the position of each line is held in memory, eight bytes a line.
    """

    def __init__(
        self, config: InputConfig, dropped: Dropped, *, shuffle: bool, seed: int, required: Sequence[str] = ()
    ) -> None:
        self.config, self.dropped, self.shuffle, self.seed = config, dropped, shuffle, seed
        self.required = required
        self.paths = [Path(path) for path in expand(config.path)]
        self._lines = [_line_positions(path) for path in self.paths]
        self._passes = 0

    def __len__(self) -> int:
        return sum(len(lines) for lines in self._lines)

    def __iter__(self) -> Iterator[Cut]:
        counts = np.cumsum([0, *map(len, self._lines)])
        order = np.arange(counts[-1])
        if self.shuffle:
            np.random.default_rng([self.seed, self._passes]).shuffle(order)
        self._passes += 1
        files = [path.open("rb") for path in self.paths]
        try:
            for index in order:
                which = int(np.searchsorted(counts, index, side="right")) - 1
                number = int(index - counts[which])
                files[which].seek(int(self._lines[which][number]))
                cut = self._cut(files[which].readline(), self.paths[which], number + 1)
                if cut is not None:
                    yield cut
        finally:
            for file in files:
                file.close()

    @abstractmethod
    def _cut(self, line: bytes, path: Path, number: int) -> Cut | None:
        """The cut that a line describes, or None where it is left out."""


class NemoManifest(JsonLines):
    """Cuts of one or more plain manifests."""

    def _cut(self, line: bytes, path: Path, number: int) -> Cut | None:
        entry = parse_entry(line, path, number, self.config.text_field) if line.strip() else None
        if entry is None:
            return None
        try:
            recording = entry_recording(entry)
            cut = entry_cut(entry, recording, f"{path.stem}-{number}", self.config)
        except AudioError as error:
            self.dropped.unreadable(entry.audio_filepath, str(error), entry.duration)
            return None
        return fill_slots(cut, self.config.slots, self.required, f"{path}, line {number}")


class TarredNemoManifest:
    """Cuts of a tarred set: numbered manifests beside numbered tars, or one manifest whose lines have a `shard_id`.

    An archive's headers are read once to know where each member lies; its audio only when a batch needs it.
    """

    def __init__(
        self, config: InputConfig, dropped: Dropped, *, shuffle: bool, seed: int, required: Sequence[str] = ()
    ) -> None:
        self.config, self.dropped, self.shuffle, self.seed = config, dropped, shuffle, seed
        self.required = required
        tars = [Path(path) for path in expand(config.tar)]
        manifests = [Path(path) for path in expand(config.path)]
        self.shards = _pair_shards(manifests, tars)
        self._passes = 0

    def __iter__(self) -> Iterator[Cut]:
        rng = random.Random(f"{self.seed} {self._passes}")
        self._passes += 1
        shards = list(self.shards)
        if self.shuffle:
            rng.shuffle(shards)
        for tar, manifest, numbers in shards:
            lines = list(_shard_entries(manifest, numbers, self.config.text_field))
            if self.shuffle:
                rng.shuffle(lines)
            yield from self._shard(tar, manifest, lines)

    def _shard(self, tar: Path, manifest: Path, entries: list[ManifestEntry]) -> Iterator[Cut]:
        try:
            members = tar_members(tar)
        except (OSError, tarfile.TarError) as error:
            self.dropped.unreadable(str(tar), str(error), sum(e.duration or 0.0 for e in entries))
            return
        for entry in entries:
            name = os.path.relpath(entry.audio_filepath, manifest.parent)
            found = members.get(name) or members.get(_without_subsegment(name))
            if found is None:
                self.dropped.unreadable(f"{tar}:{name}", "no such member in the archive", entry.duration)
                continue
            try:
                recording = _tar_recording(entry, tar, name, *found)
                cut = entry_cut(entry, recording, f"{tar.stem}-{entry.line}", self.config)
            except AudioError as error:
                self.dropped.unreadable(f"{tar}:{name}", str(error), entry.duration)
                continue
            yield fill_slots(cut, self.config.slots, self.required, f"{manifest}, line {entry.line}")


def entry_cut(entry: ManifestEntry, recording: Recording, id: str, config: InputConfig) -> Cut:
    """The cut a manifest entry describes.

    Raises:
        AudioError: its offset lies beyond the end of the recording.
    """
    if entry.offset >= recording.duration:
        raise AudioError(
            f"{entry.audio_filepath}: offset {entry.offset:g} s lies beyond its end at {recording.duration:.2f} s"
        )
    remaining = recording.duration - entry.offset
    duration = remaining if entry.duration is None else min(entry.duration, remaining)
    language = entry.extra.get(config.language_field, entry.language)
    custom = {key: value for key, value in entry.extra.items() if key not in _TIMES}
    speaker = entry.extra.get("speaker")
    return cut_of(
        recording,
        id,
        entry.text,
        offset=entry.offset,
        duration=duration,
        language=language if isinstance(language, str) else None,
        speaker=None if speaker is None else str(speaker),
        custom=custom,
    )


def tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Position and size of each file's data in an uncompressed tar archive."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}


def entry_recording(entry: ManifestEntry) -> Recording:
    """The recording of a manifest entry; its header is read only where the entry lacks the duration or the rate.

    Raises:
        AudioError: the file is missing or cannot be read.
    """
    path = entry.audio_filepath
    rate = entry.extra.get("sampling_rate") or entry.extra.get("sample_rate")
    if isinstance(rate, int) and entry.duration is not None:
        samples = round((entry.offset + entry.duration) * rate)
        return _describe(file_source(path, int(entry.extra.get("num_channels", 1))), path, samples, rate)
    info = probe(path)
    return _describe(file_source(path, info.channels), path, info.samples, info.sample_rate)


def _tar_recording(entry: ManifestEntry, tar: Path, name: str, position: int, size: int) -> Recording:
    source = TarAudioSource(type="file", channels=[0], source=str(tar), position=position, size=size)
    rate = entry.extra.get("sampling_rate") or entry.extra.get("sample_rate")
    if isinstance(rate, int) and entry.duration is not None:
        source.channels = list(range(int(entry.extra.get("num_channels", 1))))
        return _describe(source, name, round((entry.offset + entry.duration) * rate), rate)
    data = source._prepare_for_reading(0.0, None).getvalue()
    samples, rate, channels = probe_bytes(data, f"{tar}:{name}")
    source.channels = list(range(channels))
    return _describe(source, name, samples, rate)


def _describe(source: AudioSource, name: str, samples: int, rate: int) -> Recording:
    return Recording(
        id=name, sources=[source], sampling_rate=rate, num_samples=samples, duration=samples / rate
    )


def _line_positions(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            starts = [0]
            starts.extend(file.tell() for _ in iter(file.readline, b""))
    except OSError as error:
        raise ManifestError(f"{path}: the manifest cannot be opened: {error.strerror}") from None
    if len(starts) == 1:
        raise ManifestError(f"{path}: the manifest is empty; each line describes one recording")
    return np.array(starts[:-1], dtype=np.int64)


def _pair_shards(manifests: list[Path], tars: list[Path]) -> list[tuple[Path, Path, list[int] | None]]:
    """Each tar with its manifest, and which of the manifest's lines are its own (None: all)."""
    if len(manifests) == len(tars) and (len(tars) > 1 or not _has_shard_ids(manifests[0])):
        return [(tar, manifest, None) for tar, manifest in zip(tars, manifests)]
    if len(manifests) != 1:
        raise ManifestError(
            f"{len(manifests)} manifests and {len(tars)} tar files; give one manifest for each tar, or a single one"
        )
    numbers: dict[int, list[int]] = defaultdict(list)
    with manifests[0].open("rb") as file:
        for number, line in enumerate(file, start=1):
            entry = parse_entry(line, manifests[0], number) if line.strip() else None
            if entry is None:
                continue
            shard = entry.extra.get("shard_id")
            if not isinstance(shard, int):
                raise ManifestError(
                    f"{manifests[0]}, line {number}: shard_id is {shard!r}; "
                    "one manifest for several tars needs it"
                )
            numbers[shard].append(number)
    return [(tar, manifests[0], numbers[_shard_id(tar)]) for tar in tars]


def _has_shard_ids(manifest: Path) -> bool:
    try:
        with manifest.open("rb") as file:
            return b'"shard_id"' in file.readline()
    except OSError as error:
        raise ManifestError(f"{manifest}: the manifest cannot be opened: {error.strerror}") from None


def _shard_id(tar: Path) -> int:
    found = _SHARD.search(str(tar))
    if found is None:
        raise ManifestError(f"{tar}: its name has no shard number such as audio_3.tar")
    return int(found[1])


def _shard_entries(manifest: Path, numbers: list[int] | None, text_field: str) -> Iterator[ManifestEntry]:
    wanted = None if numbers is None else set(numbers)
    try:
        file = manifest.open("rb")
    except OSError as error:
        raise ManifestError(f"{manifest}: the manifest cannot be opened: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or (wanted is not None and number not in wanted):
                continue
            entry = parse_entry(line, manifest, number, text_field)
            if entry is not None:
                yield entry


def _without_subsegment(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return _SUBSEGMENT.sub("", stem) + suffix
