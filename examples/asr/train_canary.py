"""Trains a small Canary model from Python: transcription and translation by prompt, as the manifest's lines say.

python examples/asr/train_canary.py train.jsonl validation.jsonl runs/canary
"""

from __future__ import annotations

import sys
from pathlib import Path

from aronnax.collections.asr.training import load_config, train

if __name__ == "__main__":
    train_manifest, validation_manifest, output, *overrides = sys.argv[1:]
    config = load_config(
        Path(__file__).parent / "canary_small.yaml",
        [
            f"data.train={train_manifest}",
            f"data.validation={validation_manifest}",
            f"output={output}",
            *overrides,
        ],
    )
    result = train(config)
    for name, value in result.after.items():
        if name.startswith(("val/wer", "val/bleu")):
            print(f"{name}: {result.before.get(name, float('nan')):.3f} -> {value:.3f}")
    # The same recording, asked for in two languages.
    for language in ("en", "de"):
        if language in result.model.languages:
            transcripts = result.model.transcribe(validation_manifest, target_lang=language)
            print(language, "|", transcripts[0].text)
