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
    f".{name}"
    for name in "wav flac mp3 ogg opus m4a aac wma webm mp4 sph aif aiff au".split()  # noqa: SIM905
)
_PATH_COLUMNS = ("audio_filepath", "path", "file", "file_name", "filename", "audio", "wav")
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FSDD_TEST_TAKES = 5


@dataclass
class Notes:
    """What a recipe could not use: what was wrong, and the files."""

    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, name: str) -> None:
        """Note one file."""
        self.problems.setdefault(problem, []).append(name)


def prepare(recipe: str, source: Path, out: Path, notes: Notes) -> Parts:
    """Cuts of a corpus by part: `fsdd`, `folder`, or any recipe of Lhotse's that asks only for folders.

    A recipe that wants an output folder for itself gets `out/lhotse`.

    Raises:
        OptionError: no recipe has that name, or it needs more than the folder.
        ManifestError: the source is not laid out as the recipe expects, or holds nothing.
    """
    if not source.exists():
        raise ManifestError(f"{source}: no such file or folder")
    own = {"fsdd": fsdd, "folder": folder}
    parts = own[recipe](source, notes) if recipe in own else _lhotse_recipe(recipe, source, out)
    parts = {name: cuts for name, cuts in parts.items() if cuts}
    if not parts:
        wanted = (
            "; it takes audio files with a .txt beside each, or a TSV or CSV" if recipe == "folder" else ""
        )
        raise ManifestError(f"{source}: nothing found that the recipe {recipe!r} can use{wanted}")
    return parts


def fsdd(source: Path, notes: Notes) -> Parts:
    """Spoken digits: a `manifest.jsonl`, or `recordings/DIGIT_SPEAKER_TAKE.wav`; takes 0 to 4 are the test part."""
    parts: Parts = {"train": [], "test": []}
    for path in _fsdd_files(source):
        try:
            digit, speaker, take = path.stem.split("_")
            text, part = _DIGITS[int(digit)], "test" if int(take) < _FSDD_TEST_TAKES else "train"
        except (ValueError, IndexError):
            notes.add("not named DIGIT_SPEAKER_TAKE", str(path))
            continue
        parts[part].extend(_file_cut(path, path.stem, text, notes, language="en", speaker=speaker))
    return parts


def folder(source: Path, notes: Notes) -> Parts:
    """Audio files with a `.txt` beside each, or the rows of a TSV or CSV that names them; one part, `all`."""
    if source.is_file():
        return {"all": list(_table_cuts(source, notes))}
    tables = sorted(path for path in source.iterdir() if path.suffix.lower() in (".tsv", ".csv"))
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ManifestError(f"{source}: it holds several tables ({names}); give the path of one of them")
    if tables:
        return {"all": list(_table_cuts(tables[0], notes))}
    cuts: list[Cut] = []
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        transcript = path.with_suffix(".txt")
        if not transcript.is_file():
            notes.add("without a .txt beside it", str(path))
            continue
        text = " ".join(transcript.read_text(encoding="utf-8").split())
        cuts.extend(_file_cut(path, str(path.relative_to(source).with_suffix("")), text, notes))
    return {"all": cuts}


def split_parts(parts: Parts, split: str, seed: int = 0) -> Parts:
    """A choice among the parts (`dev,test`), or all of them dealt anew by shares (`train:0.9,dev:0.1`).

    Raises:
        OptionError: a part does not exist, or the shares do not add up to 1.
    """
    names = [item.strip() for item in split.split(",") if item.strip()]
    if all(":" not in name for name in names):
        for name in names:
            if name not in parts:
                raise OptionError(f"there is no part {name!r}; {nearest(name, parts)}")
        return {name: parts[name] for name in names}
    try:
        shares = {name: float(share) for name, _, share in (item.partition(":") for item in names)}
    except ValueError:
        raise OptionError(f"--split {split!r} must read like train:0.9,dev:0.1") from None
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise OptionError(f"the shares of --split {split!r} add up to {sum(shares.values()):g} instead of 1")
    cuts = [cut for part in parts.values() for cut in part]
    random.Random(seed).shuffle(cuts)
    dealt, start, total = {}, 0, 0.0
    for name, share in shares.items():
        total += share
        stop = round(total * len(cuts))
        dealt[name], start = cuts[start:stop], stop
    return dealt


def write_parts(parts: Mapping[str, Sequence[Cut]], out: Path, format: Format) -> dict[str, Path]:
    """Write each part: `<part>.jsonl` (nemo), `<part>.jsonl.gz` (lhotse) or the folder `<part>` (shar)."""
    out.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, cuts in parts.items():
        if format == "nemo":
            written[name] = out / f"{name}.jsonl"
            write_manifest(written[name], (manifest_line(cut, out) for cut in cuts))
        elif format == "lhotse":
            written[name] = out / f"{name}.jsonl.gz"
            CutSet.from_cuts(cuts).to_file(written[name])
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


def _lhotse_recipe(name: str, source: Path, out: Path) -> Parts:
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
    # Recipes download what belongs here into the working directory when it is not given.
    fetched = [name for name in ("rttm_dir",) if name in inspect.signature(function).parameters]
    needed = [parameter for parameter in (*required[1:], *fetched) if parameter != "output_dir"]
    if not required or needed:
        also = ", ".join(needed) or "a download"
        raise OptionError(f"Lhotse's recipe for {name} also needs {also}; run `lhotse prepare {name}`")
    options = {"output_dir": out / "lhotse"} if "output_dir" in required else {}
    try:
        result = function(source, **options)
    except (AssertionError, OSError, ValueError, KeyError) as error:
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
