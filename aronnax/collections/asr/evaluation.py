"""Scoring whatever transcribes on a manifest: word errors and translations by language, non-speech, speed, rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aronnax.collections.asr.inputs import Source, of_entry
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.data.manifest import ManifestEntry, read_manifest
from aronnax.collections.common.data.non_speech import NON_SPEECH
from aronnax.collections.common.data.slots import read_slots
from aronnax.collections.common.metrics import MultitaskScore, Score, Scored, score_multitask
from aronnax.core.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aronnax.collections.asr.transcribing import Result


class Transcriber(Protocol):
    """What is evaluated: a recogniser, or a speech language model that is asked for transcripts."""

    def transcribe_iter(self, x: Any, *, batch_size: int, **options: Any) -> Iterable[Result]:
        """Results as they finish."""


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a manifest."""

    parts: MultitaskScore
    """Scores by language and language pair, and of the recordings without speech."""
    audio_seconds: float
    encoded_seconds: float
    """Of signal that went through the encoder, padding counted."""
    wall_seconds: float
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, with the reason; they are not in the score."""

    @property
    def score(self) -> Score:
        """Word and character errors of all utterances with speech."""
        return self.parts.score

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed in a second."""
        return self.audio_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0

    @property
    def padding(self) -> float:
        """Share of what was encoded that is padding, 0 to 1; overlapping pieces of long recordings count as such."""
        return max(0.0, 1.0 - self.audio_seconds / self.encoded_seconds) if self.encoded_seconds else 0.0

    def to_dict(self) -> dict[str, object]:
        """The summary in JSON types."""
        return {
            "utterances": len(self.score.rows),
            "failed": len(self.failed),
            "wer": self.score.words.to_dict(),
            "cer": self.score.characters.to_dict(),
            "groups": {group.name: group.to_dict() for group in self.parts.groups if group.name},
            "non_speech": self.parts.non_speech.to_dict(),
            "audio_seconds": self.audio_seconds,
            "encoder_padding": self.padding,
            "wall_seconds": self.wall_seconds,
            "rtfx": self.rtfx,
        }


def evaluate(
    model: Transcriber,
    manifest: str | Path,
    *,
    normalise: str = "none",
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Transcribes every entry of a NeMo manifest that has a text and compares the two.

    Entries with an empty text, or `nonspeech: true`, are recordings without speech: what is written for them is
    counted apart. A model that takes prompts is asked what the entry's slots say (`source_lang`, `target_lang`,
    `pnc`, ...); further `options` are those of its `transcribe`, such as `head`, or the `prompt` of a speech language
    model. `progress` is called with the seconds of audio
    finished since the last call. Raises ManifestError when no entry has a text, or a slot is missing.
    """
    entries = [entry for entry in read_manifest(manifest) if _judged(entry)]
    if not entries:
        raise ManifestError(f"{manifest}: no entry has a text to compare with")
    lines = [_line(entry, manifest) for entry in entries]
    texts: dict[int, tuple[str, float]] = {}
    failed = []
    encoded = 0.0
    start = time.perf_counter()
    if isinstance(model, SpeechRecognizer):
        options = {"timestamps": False, "confidence": None, **options}
    for result in model.transcribe_iter(lines, batch_size=batch_size, progress=progress, **options):
        if result.transcript is None:
            failed.append((_name(entries[result.index]), str(result.error)))
        else:
            encoded += result.encoded_seconds
            texts[result.index] = (result.transcript.text, result.transcript.duration)
    wall = time.perf_counter() - start
    said = {name: str(options[name]) for name in ("source_lang", "target_lang") if options.get(name)}
    rows = [_scored(entry, *texts[index], said) for index, entry in enumerate(entries) if index in texts]
    parts = score_multitask(rows, normalise)
    return Evaluation(parts, sum(row.seconds for row in rows), encoded, wall, tuple(failed))


def write_rows(evaluation: Evaluation, path: Path) -> None:
    """Writes one JSON line an utterance: id, text, pred_text, and its word and character errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in (*evaluation.score.rows, *evaluation.parts.silence_rows):
            file.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")


def _name(entry: ManifestEntry) -> str:
    return f"{entry.audio_filepath}@{entry.offset:g}" if entry.offset else entry.audio_filepath


def _judged(entry: ManifestEntry) -> bool:
    return entry.text is not None or bool(entry.extra.get(NON_SPEECH))


def _line(entry: ManifestEntry, manifest: str | Path) -> Source:
    """What `transcribe` is given of an entry: where its audio is, and its slots."""
    slots = read_slots(entry.extra)
    if slots.get("task") in ("ast", "translate", "s2t_translation") and "target_lang" not in slots:
        raise ManifestError(
            f"{manifest}, line {entry.line}: the field target_lang is missing: into which language it is translated"
        )
    return of_entry(replace(entry, extra=slots), manifest)


def _scored(entry: ManifestEntry, said: str, seconds: float, asked: Mapping[str, str]) -> Scored:
    slots = {**read_slots(entry.extra), **asked}
    source = slots.get("source_lang") or entry.language
    text = "" if entry.extra.get(NON_SPEECH) else entry.text or ""
    return Scored(text, said, seconds, source, slots.get("target_lang") or source, _name(entry))
