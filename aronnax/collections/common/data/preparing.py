"""Corpora and folders as cuts, and cuts as NeMo manifests, Lhotse cuts or Lhotse shar."""

from __future__ import annotations

import csv
import inspect
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lhotse import CutSet, Recording
from lhotse.cut import Cut

from aronnax.collections.common.audio.reading import probe
from aronnax.collections.common.data.filters import cut_language, cut_text
from aronnax.collections.common.data.manifest import read_manifest, write_manifest
from aronnax.collections.common.data.recordings import cut_of, file_source
from aronnax.core.config import nearest
from aronnax.core.errors import AudioError, ManifestError, OptionError

Format = Literal["nemo", "lhotse", "shar"]
Parts = dict[str, list[Cut]]

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma")
    + (".webm", ".mp4", ".sph", ".aif", ".aiff", ".au")
)
        else:
            written[name] = out / name
            written[name].mkdir(exist_ok=True)
            CutSet.from_cuts(cuts).to_shar(
                written[name], fields={"recording": "flac"}, shard_size=1000, verbose=False
            )
    return written


def manifest_line(cut: Cut, folder: Path) -> dict[str, Any]:
    """A NeMo manifest line for a cut of one file; the path is relative where the file lies under `folder`."""
    recording = cut.recording
    path = Path(os.path.abspath(str(recording.sources[0].source)))
    root = Path(os.path.abspath(folder))
    line: dict[str, Any] = {
        "audio_filepath": str(path.relative_to(root) if root in path.parents else path),
        "duration": round(cut.duration, 4),
        "text": cut_text(cut) or "",
        "sampling_rate": recording.sampling_rate,
    }
    speaker = next((s.speaker for s in cut.supervisions if s.speaker), None)
    optional = {
        "offset": round(cut.start, 4),
        "lang": cut_language(cut),
        "speaker": speaker,
        "num_channels": recording.num_channels if recording.num_channels > 1 else None,
    }
    return {**line, **{key: value for key, value in optional.items() if value}}


def _lhotse_recipe(name: str, source: Path) -> Parts:
    from lhotse import recipes

    function = getattr(recipes, f"prepare_{name.replace('-', '_')}", None)
    if function is None:
        known = ["fsdd", "folder", *(n[8:] for n in dir(recipes) if n.startswith("prepare_"))]
        raise OptionError(f"there is no recipe {name!r}; {nearest(name, known)}")
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    if len(required) != 1:
        raise OptionError(
            f"Lhotse's recipe for {name} also needs {', '.join(required[1:])}; run `lhotse prepare {name}`"
        )
    try:
        result = function(source)
    except (AssertionError, FileNotFoundError, ValueError, KeyError) as error:
        raise ManifestError(f"{source}: not laid out as the {name} corpus: {error}") from None
    if "recordings" in result:
        result = {"all": result}
    return {str(part): _segments(manifests) for part, manifests in result.items()}


def _segments(manifests: Mapping[str, Any]) -> list[Cut]:
    cuts = CutSet.from_manifests(
        recordings=manifests["recordings"], supervisions=manifests.get("supervisions")
    )
    return (
        list(cuts.trim_to_supervisions(keep_overlapping=False)) if "supervisions" in manifests else list(cuts)
    )


def _fsdd_files(source: Path) -> list[Path]:
    manifest = source / "manifest.jsonl"
    if manifest.is_file():
        return [Path(entry.audio_filepath) for entry in read_manifest(manifest)]
    recordings = source / "recordings" if (source / "recordings").is_dir() else source
    return sorted(path for path in recordings.iterdir() if path.suffix in (".wav", ".flac"))


def _table_cuts(table: Path, notes: Notes) -> Iterator[Cut]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ","))
    if not rows:
        raise ManifestError(f"{table}: the table is empty")
    header = [name.strip().lower() for name in rows[0]]
    path_column = next((header.index(name) for name in _PATH_COLUMNS if name in header), None)
    text_column = next((header.index(name) for name in _TEXT_COLUMNS if name in header), None)
    if path_column is None or text_column is None:
        if len(header) != 2:
            raise ManifestError(
                f"{table}: the first row must name a column of paths ({', '.join(_PATH_COLUMNS)}) "
                f"and one of texts ({', '.join(_TEXT_COLUMNS)}), not {', '.join(rows[0])}"
            )
        path_column, text_column, body = 0, 1, rows
    else:
        body = rows[1:]
    for number, row in enumerate(body, start=1 + (body is not rows)):
        if not row:
            continue
        if len(row) <= max(path_column, text_column):
            raise ManifestError(f"{table}, line {number}: {len(row)} columns instead of {len(header)}")
        path = _find_audio(table.parent, row[path_column])
        if path is None:
            notes.add("named in the table but not there", row[path_column])
            continue
        yield from _file_cut(path, f"{table.stem}-{number}", row[text_column].strip(), notes)


def _find_audio(folder: Path, name: str) -> Path | None:
    """Tables often leave out the folder of the recordings, as Common Voice does, or the suffix."""
    for candidate in (
        folder / name,
        folder / "clips" / name,
        folder / "audio" / name,
        folder / "wavs" / name,
    ):
        for path in (candidate, candidate.with_name(candidate.name + ".wav")):
            if path.is_file():
                return path
    return None


def _file_cut(path: Path, id: str, text: str, notes: Notes, **options: Any) -> Iterable[Cut]:
    try:
        info = probe(path)
    except AudioError:
        notes.add("not readable as audio", str(path))
        return ()
    if not info.samples:
        notes.add("without any sound", str(path))
        return ()
    recording = Recording(
        id=id,
        sources=[file_source(str(path), info.channels)],
        sampling_rate=info.sample_rate,
        num_samples=info.samples,
        duration=info.samples / info.sample_rate,
    )
    return (cut_of(recording, id, text, **options),)
