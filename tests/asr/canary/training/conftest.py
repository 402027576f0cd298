"""Tones that stand for words, transcribed (`a b`) and "translated" to `de` (`vau weh`); tiny Canary runs on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 8000
PITCH = {"a": 400, "b": 900, "c": 1500, "d": 2400}
GERMAN = {"a": "vau", "b": "weh", "c": "ix", "d": "zett"}
TEXTS = ("a b", "b c d", "d", "c a", "d d b", "a c b")


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


def german(text: str) -> str:
    return " ".join(GERMAN[word] for word in text.split())


@pytest.fixture
def prompted_manifest(tmp_path: Path) -> Callable[..., Path]:
    """extra lines, name -> a manifest with a transcription and a translation of every text."""

    def make(*extra: dict[str, Any], name: str = "train", texts: tuple[str, ...] = TEXTS) -> Path:
        lines: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            signal = tone(text, index)
            file = f"{name}{index}.wav"
            soundfile.write(tmp_path / file, signal, RATE)
            common = {"audio_filepath": file, "duration": len(signal) / RATE, "source_lang": "en"}
            lines.append({**common, "target_lang": "en", "text": text})
            lines.append({**common, "target_lang": "de", "text": german(text), "taskname": "ast"})
        lines += [{"audio_filepath": f"{name}0.wav", "duration": 0.5, **line} for line in extra]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make


@pytest.fixture
def canary_config(prompted_manifest, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """steps, changes of sections -> the mapping of a short run on the tones."""

    def make(steps: int = 4, manifest: Path | None = None, **sections: Any) -> dict[str, Any]:
        path = str(manifest or prompted_manifest())
        config: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "model": {
                "type": "canary",
                "preprocessor": {"sample_rate": RATE, "n_mels": 32, "n_fft": 256, "dither": 0.0},
                "encoder": {
                    "n_layers": 1,
                    "d_model": 48,
                    "n_heads": 2,
                    "subsampling_factor": 4,
                    "subsampling_conv_channels": 16,
                    "conv_kernel_size": 5,
                    "dropout": 0.0,
                    "dropout_pre_encoder": 0.0,
                    "dropout_att": 0.0,
                },
                "decoder": {
                    "hidden_size": 48,
                    "inner_size": 96,
                    "n_layers": 2,
                    "n_heads": 2,
                    "max_sequence_length": 64,
                },
            },
            "tokenizer": {"kind": "canary", "vocab_size": 80, "pieces": "char"},
            "data": {
                "train": path,
                "validation": path,
                "batching": {"batch_size": 4, "buckets": 1},
                "num_workers": 0,
            },
            "optim": {"lr": 3e-3, "warmup_steps": 2},
            "trainer": {
                "max_steps": steps,
                "val_every": 100,
                "checkpoint_every": 2,
                "accelerator": "cpu",
                "loggers": ["csv"],
                "log_every": 1,
            },
        }
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(config.get(name), dict)
            config[name] = {**config[name], **section} if both else section
        return config

    return make
