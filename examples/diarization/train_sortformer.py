"""Trains a small diarizer from Python, on sessions made on the fly from recordings of single speakers.

python examples/diarization/train_sortformer.py voices.jsonl other_voices.jsonl runs/sortformer [key=value ...]

A line of a manifest: {"audio_filepath": "a.flac", "speaker": "anna"}.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aronnax.collections.diarization.training import load_config, train

if __name__ == "__main__":
    voices, other_voices, output, *overrides = sys.argv[1:]
    config = load_config(
        Path(__file__).parent / "sortformer_small.yaml",
        [
            f"simulation.voices={voices}",
            f"simulation.validation_voices={other_voices}",
            f"output={output}",
            *overrides,
        ],
    )
    result = train(config)
    for name in ("val/der", "val/der_best", "val/first_right"):
        print(f"{name}: {result.before[name]:.3f} -> {result.after[name]:.3f}")
    print(f"use it with: aronnax diarize meeting.wav -m {result.folder}")
