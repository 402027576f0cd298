"""Small corpora made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

RATE = 8000
WORDS = ("a", "ab", "abc", "b a", "c b a")

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_corpus(tmp_path: Path) -> Write:
    """Writes `count` wav files of noise, 0.2 to 1.2 s, and their manifest; returns its path."""

    def write(count: int = 20, name: str = "train", seed: int = 0, **fields: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        generator = np.random.default_rng(seed)
        lines = []
        for index in range(count):
            samples = int(RATE * generator.uniform(0.2, 1.2))
            soundfile.write(folder / f"{index}.wav", 0.1 * generator.standard_normal(samples), RATE)
            line = {"audio_filepath": f"{index}.wav", "duration": samples / RATE, "text": WORDS[index % 5]}
            lines.append({**line, **fields})
        path = folder / "manifest.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write
