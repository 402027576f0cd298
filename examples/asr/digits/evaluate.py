"""Test a digit model on one FSDD speaker: strings of 1 to 7 digits and single digits, at 8 and at 16 kHz.

`python examples/asr/digits/evaluate.py MODEL FSDD_FOLDER SPEAKER [RESULTS_FOLDER]` prints one line a condition.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import soxr
from voices import RATE, load_fsdd

import aronnax
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.metrics import ErrorCounts, score

STRINGS = 350
SEED = 2026


def digit_strings(clips: list[tuple[np.ndarray, str]], count: int = STRINGS) -> list[tuple[np.ndarray, str]]:
    """Strings of 1 to 7 digits, as many of each, with digital silence of 0 to 0.4 s around the digits.

    Seeded: the same clips always give the same strings.
    """
    chance, strings = random.Random(SEED), []
    for index in range(count):
        pieces, words = [_pause(chance, 0.3)], []
        for audio, text in chance.sample(clips, 1 + index % 7):
            pieces += [audio, _pause(chance, 0.4)]
            words.append(text)
        strings.append((np.concatenate(pieces, dtype=np.float32), " ".join(words)))
    return strings


def _pause(chance: random.Random, longest: float) -> np.ndarray:
    return np.zeros(int(chance.uniform(0, longest) * RATE), np.float32)


def recognise(
    model: SpeechRecognizer, clips: list[tuple[np.ndarray, str]], sample_rate: int, head: str
) -> list[str]:
    """Texts of clips, which are brought to `sample_rate` first and read from there."""
    sources = [
        (audio if sample_rate == RATE else soxr.resample(audio, RATE, sample_rate), sample_rate)
        for audio, _ in clips
    ]
    transcripts = model.transcribe(sources, batch_size=32, head=head, timestamps=False, confidence=None)
    return [transcript.text for transcript in transcripts]


def evaluate(
    model_folder: str | Path, fsdd: str, speaker: str, output: str | None = None
) -> dict[str, ErrorCounts]:
    """Word errors by condition, printed, and written to `output`/results.json when that is given."""
    model = aronnax.load(str(model_folder), device="cpu")
    clips = load_fsdd(Path(fsdd))[speaker]
    results = {}
    for kind, rows in (("strings", digit_strings(clips)), ("single digits", clips)):
        for sample_rate in (8000, 16000):
            for head in model.heads:
                texts = recognise(model, rows, sample_rate, head)
                errors = score([text for _, text in rows], texts).words
                results[f"{kind}, {sample_rate // 1000} kHz, {head}"] = errors
                print(f"{speaker}: {kind}, {sample_rate // 1000} kHz, {head}: {errors}", flush=True)
    if output:
        plain = {name: {"wer": errors.rate, **vars(errors)} for name, errors in results.items()}
        Path(output, "results.json").write_text(json.dumps({"speaker": speaker, **plain}, indent=1) + "\n")
    return results


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    evaluate(*sys.argv[1:5])
