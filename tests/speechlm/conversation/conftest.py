"""A tokenizer of a few words and recordings of noise, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.llm.chat.tokenizer import ChatTokenizer

RATE = 8000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    """One id a word; `<|user|>`, `<|assistant|>` and `<|end|>` as in the prompt format digits."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", *"abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[:5])
    settings = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<|end|>"}
    assets = {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
    return ChatTokenizer(assets, prompt_format="digits")


@pytest.fixture
def noise(tmp_path: Path) -> Callable[..., str]:
    """Writes a recording of noise of so many seconds; returns its name within the test's folder."""

    def write(name: str, seconds: float, rate: int = RATE) -> str:
        generator = np.random.default_rng(len(name))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * generator.standard_normal(round(seconds * rate)), rate)
        return name

    return write


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes objects as JSON lines; returns the file."""

    def write(*lines: Any, name: str = "conversations.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write
