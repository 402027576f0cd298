"""A language model of a few thousand parameters with a tokenizer of bytes, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.model import LanguageModel, LanguageModelConfig

FIXTURE = Path(__file__).parents[1] / "parity" / "fixtures" / "chat_prompts.json"
SETTINGS: dict[str, Any] = {
    "vocab_size": 440,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}


def tokenizer_files() -> dict[str, bytes]:
    """A byte-level BPE with Qwen's marks."""
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return {name: text.encode() for name, text in fixture["tokenizers"]["bytes"].items()}


def language_model(seed: int = 0, tied: bool = True, **options: Any) -> LanguageModel:
    """A Llama of two layers with weights drawn from `seed`, ready to answer."""
    torch.manual_seed(seed)
    backbone = BackboneConfig("llama", {**SETTINGS, "tie_word_embeddings": tied})
    config = LanguageModelConfig(backbone, prompt_format="qwen", **options)
    return LanguageModel.build(config, tokenizer_files()).eval()
