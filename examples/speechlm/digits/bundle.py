"""Put a trained model among the bundled ones: `bundle.py MODEL FOLDER CARD.md`.

What its language model has in common with the bundled `digits-lm` is not stored again.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

import aronnax
from aronnax.collections.speechlm.model import SpeechLM


def main(source: str, folder: str, card: str) -> None:
    """Save the model anew, in half precision, with its card."""
    model = aronnax.load(source, device="cpu")
    assert isinstance(model, SpeechLM)
    model.config = replace(model.config, references={"llm.": "digits-lm"})
    model.save_pretrained(folder, card=Path(card).read_text("utf-8"), dtype=torch.float16)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
