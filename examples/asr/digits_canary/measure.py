"""Test a prompted digit model on one FSDD speaker, and on sounds in which nobody speaks.

`python examples/asr/digits_canary/measure.py MODEL FSDD_FOLDER SPEAKER [RESULTS_FOLDER]` prints one line a condition:
word errors of strings of 1 to 7 digits (at 8 and 16 kHz) and of single digits in each language and form; how often
another target language alone makes the text one of that language; characters a minute that are written for noise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "digits"))

import noises
import numpy as np
import soundfile
import soxr
from answers import LANGUAGES, WORDS, say
from batches import SLOTS
from evaluate import digit_strings
from voices import RATE, load_fsdd

import aronnax
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.common.metrics import score

NOISE_SECONDS = 10.0
PER_KIND = 12
Clip = tuple[np.ndarray, str]


def write(model: CanaryModel, audios: Sequence[np.ndarray], rate: int, language: str, pnc: bool) -> list[str]:
    """What the model writes for audios at 8 kHz, which are brought to `rate` first and read from there."""
    audio_of = [(audio if rate == RATE else soxr.resample(audio, RATE, rate), rate) for audio in audios]
    transcripts = model.transcribe(
        audio_of, target_lang=language, pnc=pnc, batch_size=32, timestamps=False, confidence=None, guard=False
    )
    return [transcript.text for transcript in transcripts]


def errors(
    model: CanaryModel, kind: str, clips: Sequence[Clip], rate: int
) -> tuple[dict[str, Any], list[list[str]]]:
    """Word errors by language and form, and the texts without punctuation of each language."""
    results, texts = {}, []
    # Punctuation and the other rate are tested where most words are.
    for language, pnc in [form for form in SLOTS if (kind == "strings" and rate == RATE) or not form[1]]:
        written = write(model, [audio for audio, _ in clips], rate, language, pnc)
        found = score([say(text, language, pnc) for _, text in clips], written).words
        name = f"{kind}, {rate // 1000} kHz, {language}{', pnc' if pnc else ''}"
        results[name] = {"wer": found.rate, **vars(found)}
        print(f"{name}: {found}", flush=True)
        if not pnc:
            texts.append(written)
    return results, texts


def language_change(texts: Sequence[Sequence[str]]) -> float:
    """Share of (recording, other language) whose words are all of that language and whose text is not the English.

    "six" is French as well, and does not count.
    """
    changes = [
        bool(other) and other != english and set(other.split()) <= set(WORDS[language])
        for language, others in zip(LANGUAGES[1:], texts[1:])
        for english, other in zip(texts[0], others)
        if set(english.split()) - {"six"}
    ]
    return sum(changes) / max(1, len(changes))


def noise_sets(instruments: Path | None) -> dict[str, list[np.ndarray]]:
    """Ten seconds each of the noises that were trained on, of others, and of real instruments where there are."""
    chance, sets = np.random.default_rng(2026), {}
    size = int(NOISE_SECONDS * RATE)
    for name, kinds in (("trained on", noises.TRAINED), ("not trained on", noises.UNHEARD)):
        for kind in kinds:
            sets[f"{name}, {kind}"] = [noises.make(kinds[kind], chance, size) for _ in range(PER_KIND)]
    if instruments and (instruments / "manifest.jsonl").exists():
        lines = (instruments / "manifest.jsonl").read_text().splitlines()
        sets["not trained on, instruments"] = []
        for line in lines[:: max(1, len(lines) // 42)]:
            audio, rate = soundfile.read(instruments / json.loads(line)["audio_filepath"], dtype="float32")
            sets["not trained on, instruments"].append(soxr.resample(audio, rate, RATE))
    return sets


def characters_per_minute(model: CanaryModel, instruments: Path | None) -> dict[str, float]:
    """Characters written a minute of noise, by kind of noise."""
    counts = {
        name: (sum(map(len, write(model, sounds, RATE, "en", True))), sum(map(len, sounds)) / RATE / 60)
        for name, sounds in noise_sets(instruments).items()
    }
    for group in ("trained on", "not trained on", "all noises"):
        members = [pair for name, pair in counts.items() if name.startswith(group) or group == "all noises"]
        counts[group] = (sum(count for count, _ in members), sum(minutes for _, minutes in members))
    rates = {name: count / minutes for name, (count, minutes) in counts.items()}
    for name, rate in rates.items():
        print(f"characters a minute, {name}: {rate:.1f}", flush=True)
    return rates


def measure(folder: str | Path, fsdd: str, speaker: str, output: str | Path | None = None) -> dict[str, Any]:
    """All of it, printed, and written to `output`/results.json when that is given."""
    model = aronnax.load(str(folder), device="cpu")
    clips = load_fsdd(Path(fsdd))[speaker]
    found: dict[str, Any] = {"speaker": speaker}
    strings = digit_strings(clips)
    for kind, rows, rate in (
        ("strings", strings, 8000),
        ("strings", strings, 16000),
        ("single digits", clips, 8000),
    ):
        results, texts = errors(model, kind, rows, rate)
        found.update(results)
        if rate == RATE:
            found[f"{kind}, language change"] = language_change(texts)
            print(f"{kind}, language change: {100 * language_change(texts):.2f} %", flush=True)
    found["characters a minute"] = characters_per_minute(model, Path(fsdd).parent / "instrument_sounds")
    if output:
        Path(output, "results.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    measure(*sys.argv[1:5])
