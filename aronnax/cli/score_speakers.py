"""`aronnax evaluate --diarization`: who spoke when, or who said what, against a reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.cli.terminal import table
from aronnax.core.errors import ConfigError, ManifestError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.metrics.diarization import DiarizationErrors
    from aronnax.collections.common.metrics.speaker_words import SpeakerWords
    from aronnax.collections.common.results import Turn

WHOLE = "all"


@dataclass(frozen=True)
class Scoring:
    """How speakers are scored; see `score_diarization` and `score_speaker_words`."""

    collar: float | None
    skip_overlap: bool
    uem: Path | None
    normaliser: str


def score_speakers(reference: Path, hypothesis: Path, scoring: Scoring, out: Path | None) -> None:
    """Print the errors of each recording and of all; with `out`, write them to out/summary.json."""
    if _holds_turns(reference) and _holds_turns(hypothesis):
        found, lines = _score_turns(reference, hypothesis, scoring)
    else:
        found, lines = _score_words(reference, hypothesis, scoring)
    for line in lines:
        print(line)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        summary = {"reference": str(reference), "hypothesis": str(hypothesis), **found}
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _score_turns(reference: Path, hypothesis: Path, scoring: Scoring) -> tuple[dict[str, Any], Sequence[str]]:
    from aronnax.collections.common.metrics.diarization import DiarizationErrors, score_diarization
    from aronnax.collections.common.results.rttm import read_uem

    collar = scoring.collar or 0.0
    spoken = _turns(reference)
    regions = None if scoring.uem is None else read_uem(scoring.uem)
    rows = score_diarization(
        spoken,
        _turns(hypothesis),
        regions=regions,
        collar=collar,
        skip_overlap=scoring.skip_overlap,
    )
    total = sum(rows.values(), DiarizationErrors())
    head = ("", "DER %", "missed %", "false alarm %", "confusion %", "JER %", "speech s")
    lines = table(head, [_times_row(name, row) for name, row in [*rows.items(), (WHOLE, total)]])
    overlap = "left out" if scoring.skip_overlap else "scored"
    lines.append(f"{len(rows)} recordings, collar {collar:g} s on each side, overlapped speech {overlap}")
    if regions is not None:
        lines += _beyond(spoken, regions)
    recordings = {name: row.to_dict() for name, row in rows.items()}
    return {
        "collar": collar,
        "skip_overlap": scoring.skip_overlap,
        WHOLE: total.to_dict(),
        "recordings": recordings,
    }, lines


def _beyond(
    reference: Mapping[str, Sequence[Turn]], regions: Mapping[str, Sequence[tuple[float, float]]]
) -> list[str]:
    """A line about reference turns that run beyond the last region of their recording: a UEM may mean it, or err."""
    from aronnax.collections.common.results.rttm import SLACK

    ends = {name: max(end for _, end in spans) for name, spans in regions.items()}
    late = [
        f"{turn.speaker} until {turn.end:.3f} s in {name}, whose regions "
        + (f"end at {ends[name]:.3f} s" if name in ends else "are not there")
        for name, turns in reference.items()
        for turn in turns
        if turn.end > ends.get(name, 0.0) + SLACK
    ]
    if not late:
        return []
    return [f"not scored: {len(late)} turns of the reference run beyond the UEM, such as {late[0]}"]


def _times_row(name: str, row: DiarizationErrors) -> tuple[str, ...]:
    parts = (row.missed, row.false_alarm, row.confusion)
    shares = [f"{100 * part / row.speech:.2f}" if row.speech else "-" for part in parts]
    return (name, f"{100 * row.der:.2f}", *shares, f"{100 * row.jer:.2f}", f"{row.speech:.1f}")


def _score_words(reference: Path, hypothesis: Path, scoring: Scoring) -> tuple[dict[str, Any], Sequence[str]]:
    from aronnax.collections.common.metrics.speaker_words import COLLAR, SpeakerWords, score_speaker_words
    from aronnax.collections.common.results.spoken import read_spoken

    if any(_holds_turns(path) for path in (reference, hypothesis)):
        raise OptionError(
            f"{reference} and {hypothesis} cannot be compared: give turns for both (RTTM or the JSON of diarize), or"
            " words with speakers for both (STM, SegLST, a manifest with `speaker`, or the JSON of transcribe)"
        )
    if scoring.uem is not None or scoring.skip_overlap:
        raise OptionError("--uem and --skip-overlap are for turns (RTTM), not for words with speakers")
    collar = COLLAR if scoring.collar is None else scoring.collar
    rows = score_speaker_words(
        read_spoken(reference), read_spoken(hypothesis), collar=collar, normalise=scoring.normaliser
    )
    total = sum(rows.values(), SpeakerWords())
    head = ("", "cpWER %", "tcpWER %", "words", "insertions", "deletions", "substitutions")
    lines = table(head, [_words_row(name, row) for name, row in [*rows.items(), (WHOLE, total)]])
    lines.append(f"{len(rows)} recordings; tcpWER lets words lie {collar:g} s off; the counts are cpWER's")
    recordings = {name: row.to_dict() for name, row in rows.items()}
    return {
        "collar": collar,
        "normalise": scoring.normaliser,
        WHOLE: total.to_dict(),
        "recordings": recordings,
    }, lines


def _words_row(name: str, row: SpeakerWords) -> tuple[object, ...]:
    timed = "-" if row.tcp is None else f"{100 * row.tcp.rate:.2f}"
    cp = row.cp
    return (name, f"{100 * cp.rate:.2f}", timed, cp.length, cp.insertions, cp.deletions, cp.substitutions)


def _holds_turns(path: Path) -> bool:
    """Whether a file, or the files of a folder, hold turns without words."""
    files = _files(path)
    if not files:
        raise ManifestError(f"{path}: the folder holds no file that ends in .rttm, .stm, .json or .jsonl")
    return files[0].suffix.lower() == ".rttm" or _diarization(files[0]) is not None


def _files(path: Path) -> list[Path]:
    """The file, or of a folder those that hold turns: RTTM if there is any, since JSON may lie beside it."""
    if not path.is_dir():
        return [path]
    for suffixes in ((".rttm",), (".stm",), (".json", ".jsonl")):
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        if found:
            return found
    return []


def _turns(path: Path) -> dict[str, Sequence[Turn]]:
    from aronnax.collections.common.results import Diarization
    from aronnax.collections.common.results.rttm import read_rttm

    found: dict[str, Sequence[Turn]] = {}
    for file in _files(path):
        plain = _diarization(file)
        if plain is None:
            for name, turns in read_rttm(file).items():
                found[name] = [*found.get(name, ()), *turns]
            if file.stat().st_size == 0 and path.is_dir():
                found.setdefault("_".join(file.stem.split()), ())
            continue
        try:
            diarization = Diarization.from_dict(plain)
        except ConfigError as error:
            raise ManifestError(f"{file}: {error}") from None
        found[diarization.recording] = diarization.turns
    return found


def _diarization(file: Path) -> Mapping[str, Any] | None:
    """The plain values of the JSON of `aronnax diarize`, or None for another file."""
    if file.suffix.lower() != ".json":
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plain if isinstance(plain, dict) and "turns" in plain else None
