"""Tiny recognisers, and tones that stand for words: `a` 400 Hz, `b` 900 Hz, `c` 1500 Hz, `d` 2400 Hz."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.asr.batch import SpeechBatch, collate
from aronnax.collections.common.text import CharacterTokenizer

RATE = 8000
PITCH = {"a": 400, "b": 900, "c": 1500, "d": 2400}
TEXTS = ("a b", "b c d", "d", "c a", "d d b", "a c b", "b", "c d a")


def tone(text: str, seed: int = 0) -> np.ndarray:
    """Each word as 0.3 s of its tone with 0.1 s of near silence around it."""
    rng = np.random.default_rng(seed)
    quiet = np.zeros(RATE // 10)
    pieces = [quiet]
    for word in text.split():
        time = np.arange(int(0.3 * RATE)) / RATE
        pieces += [0.3 * np.sin(2 * np.pi * PITCH[word] * time), quiet]
    signal = np.concatenate(pieces)
    return (signal + 1e-3 * rng.standard_normal(len(signal))).astype(np.float32)


def model_section(kind: str, **encoder: Any) -> dict[str, Any]:
    """The `model` section of a tiny recogniser."""
    section: dict[str, Any] = {
        "type": kind,
        "preprocessor": {"sample_rate": RATE, "n_mels": 32, "n_fft": 256, "dither": 0.0},
        "encoder": {
            "feat_in": 32,
            "n_layers": 2,
            "d_model": 32,
            "n_heads": 2,
            "subsampling_factor": 4,
            "subsampling_conv_channels": 16,
            "conv_kernel_size": 5,
            **encoder,
        },
    }
    if kind != "ctc":
        section["prediction"] = {"hidden": 32, "layers": 1, "dropout": 0.1}
        section["joint"] = {"hidden": 32, "dropout": 0.1}
        section["durations"] = [0, 1, 2, 3]
    return section


@pytest.fixture
def tiny_section() -> Callable[..., dict[str, Any]]:
    return model_section


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """kind, encoder options -> a tiny model over the characters ` abcd`."""

    def make(kind: str, labels: str = " abcd", **encoder: Any) -> Any:
        from aronnax.core.config import from_dict
        from aronnax.core.registry import model_class

        torch.manual_seed(0)
        cls: Any = model_class(kind)
        section = {k: v for k, v in model_section(kind, **encoder).items() if k != "type"}
        config = from_dict(cls.Config, {**section, "vocab_size": len(labels)})
        return cls(config, CharacterTokenizer(list(labels)))

    return make


@pytest.fixture
def tone_batch() -> Callable[..., SpeechBatch]:
    """texts, tokenizer -> one batch of their tones."""

    def make(texts: tuple[str, ...], tokenizer: Any) -> SpeechBatch:
        signals = [torch.from_numpy(tone(text, seed=len(text))) for text in texts]
        return collate(signals, [tokenizer.encode(text) for text in texts], texts, list(texts))

    return make


@pytest.fixture
def tone_texts() -> tuple[str, ...]:
    return TEXTS


@pytest.fixture
def tone_manifest(tmp_path: Path) -> Callable[..., Path]:
    """texts -> a NeMo manifest of their tones."""

    def make(texts: tuple[str, ...] = TEXTS, name: str = "train") -> Path:
        path = tmp_path / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as lines:
            for index, text in enumerate(texts):
                signal = tone(text, index)
                soundfile.write(tmp_path / f"{name}{index}.wav", signal, RATE)
                entry = {
                    "audio_filepath": f"{name}{index}.wav",
                    "duration": len(signal) / RATE,
                    "text": text,
                }
                lines.write(json.dumps(entry) + "\n")
        return path

    return make
