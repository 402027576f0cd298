"""Scoring a recogniser on a manifest: word and character errors, speed, and one row an utterance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.data.manifest import ManifestEntry, read_manifest
from aronnax.collections.common.metrics import Score, score
from aronnax.core.errors import ManifestError


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a manifest."""

    score: Score
    audio_seconds: float
    wall_seconds: float
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, with the reason; they are not in the score."""

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed in a second."""
        return self.audio_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """The summary in JSON types."""
        return {
            "utterances": len(self.score.rows),
            "failed": len(self.failed),
            "wer": self.score.words.to_dict(),
            "cer": self.score.characters.to_dict(),
            "audio_seconds": self.audio_seconds,
            "wall_seconds": self.wall_seconds,
            "rtfx": self.rtfx,
        }


def evaluate(
    model: SpeechRecognizer,
    manifest: str | Path,
    *,
    head: str | None = None,
    normalise: str = "none",
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Transcribes every entry of a NeMo manifest that has a text and compares the two.

    `progress` is called with the seconds of audio finished since the last call. Raises ManifestError when no
    entry has a text.
    """
    entries = [entry for entry in read_manifest(manifest) if entry.text is not None]
    if not entries:
        raise ManifestError(f"{manifest}: no entry has a text to compare with")
    lines = [
        {"audio_filepath": e.audio_filepath, "offset": e.offset, "duration": e.duration} for e in entries
    ]
    texts: dict[int, str] = {}
    failed = []
    audio = 0.0
    start = time.perf_counter()
    results = model.transcribe_iter(
        lines, batch_size=batch_size, head=head, timestamps=False, confidence=None, progress=progress
    )
    for result in results:
        if result.transcript is None:
            failed.append((_name(entries[result.index]), str(result.error)))
            continue
        texts[result.index] = result.transcript.text
        audio += result.transcript.duration
    wall = time.perf_counter() - start
    kept = [(entry, texts[index]) for index, entry in enumerate(entries) if index in texts]
    scored = score(
        [entry.text or "" for entry, _ in kept],
        [text for _, text in kept],
        ids=[_name(entry) for entry, _ in kept],
        normalise=normalise,
    )
    return Evaluation(scored, audio, wall, tuple(failed))


def write_rows(evaluation: Evaluation, path: Path) -> None:
    """Writes one JSON line an utterance: id, text, pred_text, and its word and character errors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in evaluation.score.rows:
            file.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")


def _name(entry: ManifestEntry) -> str:
    return f"{entry.audio_filepath}@{entry.offset:g}" if entry.offset else entry.audio_filepath
