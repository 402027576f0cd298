"""What int8 weights cost in words: the bundled `digits` model in fp32 and int8 on the same real recordings.

    ARONNAX_DATA=DATA python benchmarks/int8_wer.py

`DATA` holds `fsdd` (the takes the model never heard: split "test") and `grid_av` (GRID: a speaker it never heard; the
digit is cut out of each sentence by the word alignment), each with a `manifest.jsonl`. Digits of one speaker are
joined into strings of 1 to 7; each set is also heard in white noise 10 dB below the speech.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers import save

import aronnax
from aronnax.collections.common.audio.reading import read_audio
from aronnax.collections.common.metrics import score

RATE = 8000
STRINGS = 500  # of each set: as many of each speaker and length
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MARGIN = 0.03
Clips = dict[str, list[tuple[np.ndarray, str]]]


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the folder's manifest."""
    with (folder / "manifest.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def fsdd(folder: Path) -> Clips:
    """Each speaker's recordings of the test split."""
    clips: Clips = defaultdict(list)
    for entry in entries(folder):
        if entry["split"] == "test":
            audio = read_audio(folder / entry["audio_filepath"], sample_rate=RATE)
            clips[entry["speaker"]].append((audio.samples, entry["text"]))
    return clips


def grid(folder: Path) -> Clips:
    """Each speaker's digits, cut out of the sentences with `MARGIN` seconds on either side."""
    clips: Clips = defaultdict(list)
    for entry in entries(folder):
        audio = read_audio(folder / entry["audio_filepath"], sample_rate=RATE)
        for start, end, word in entry.get("word_alignment", ()):
            if word in DIGITS:
                first, last = int(max(start - MARGIN, 0) * RATE), int((end + MARGIN) * RATE)
                clips[entry["speaker"]].append((audio.samples[first:last], word))
    return clips


def strings(clips: Clips, noise: float | None) -> list[tuple[np.ndarray, str]]:
    """Seeded strings of each speaker's digits with silences of 0 to 0.4 s; `noise`: signal to noise in dB."""
    chance, generator, rows = random.Random(0), np.random.default_rng(0), []
    for spoken in clips.values():
        for index in range(STRINGS // len(clips)):
            chosen = chance.sample(spoken, min(1 + index % 7, len(spoken)))
            silences = [np.zeros(int(chance.uniform(0, 0.4) * RATE), np.float32) for _ in chosen]
            pairs = zip(silences, chosen, strict=True)
            signal = np.concatenate([piece for silence, (audio, _) in pairs for piece in (silence, audio)])
            if noise is not None:
                loudness = np.sqrt(np.mean(np.concatenate([audio for audio, _ in chosen]) ** 2))
                hiss = generator.standard_normal(len(signal), dtype=np.float32)
                signal = signal + hiss * np.float32(loudness / 10 ** (noise / 20))
            rows.append((signal, " ".join(word for _, word in chosen)))
    return rows


def main() -> None:
    """Print both word error rates for each set and head, and their difference; save them."""
    data = Path(os.environ.get("ARONNAX_DATA", ""))
    if not (data / "fsdd").is_dir() or not os.environ.get("ARONNAX_DATA"):
        sys.exit("set ARONNAX_DATA to the folder that holds fsdd and grid_av")
    models = {"fp32": aronnax.load("digits", device="cpu")}
    models["int8"] = aronnax.load("digits", device="cpu", weights="int8")
    clips = {"FSDD": fsdd(data / "fsdd"), "GRID": grid(data / "grid_av")}
    results: dict[str, dict[str, float]] = {}
    totals: dict[str, int] = defaultdict(int)
    print(f"{'':30} {'words':>6} {'fp32':>8} {'int8':>8}   difference in points")
    for name, noise in ((name, noise) for name in clips for noise in (None, 10.0)):
        rows = strings(clips[name], noise)
        sources, references = [(signal, RATE) for signal, _ in rows], [text for _, text in rows]
        for head in models["fp32"].heads:
            errors = {}
            for weights, model in models.items():
                texts = model.transcribe(sources, batch_size=32, head=head, timestamps=False, confidence=None)
                errors[weights] = score(references, [text.text for text in texts]).words
                totals[weights] += errors[weights].errors
            words = errors["fp32"].length
            totals["words"] += words
            rates = {weights: 100 * count.rate for weights, count in errors.items()}
            difference = rates["int8"] - rates["fp32"]
            label = f"{name}{'' if noise is None else f', noise at {noise:g} dB'}, {head}"
            print(
                f"{label:30} {words:6} {rates['fp32']:7.2f}% {rates['int8']:7.2f}%   {difference:+.2f}",
                flush=True,
            )
            results[label] = {"words": words, **rates, "difference": difference}
    difference = 100 * (totals["int8"] - totals["fp32"]) / totals["words"]
    print(f"{'all':30} {totals['words']:6} {'':17}   {difference:+.2f}")
    save("int8_wer", {"rows": results, "all": {"words": totals["words"], "difference": difference}})


if __name__ == "__main__":
    main()
