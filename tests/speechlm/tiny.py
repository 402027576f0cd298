"""A speech language model of a few thousand weights, built in milliseconds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.llm.lora.config import LoRA
from aronnax.collections.speechlm.model import SpeechLMConfig
from aronnax.collections.speechlm.perception import AdapterConfig, PerceptionConfig
from aronnax.collections.speechlm.salm.model import SALM
from aronnax.collections.speechlm.voicetextblender.model import VoiceTextBlender, VoiceTextBlenderConfig

RATE = 8000
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = [
    "<pad>",
    "<unk>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "repeat",
    "what",
    "is",
    "said",
    ":",
    *DIGITS,
]
CONFIG = SpeechLMConfig(
    backbone=BackboneConfig(
        "llama",
        {
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
    ),
    perception=PerceptionConfig(
        preprocessor=LogMelConfig(sample_rate=RATE, n_mels=16, n_fft=256, dither=0.0),
        encoder=FastConformerConfig(
            feat_in=16,
            n_layers=1,
            d_model=12,
            n_heads=2,
            subsampling_factor=4,
            subsampling_conv_channels=4,
            conv_kernel_size=3,
            dropout=0.0,
            dropout_pre_encoder=0.0,
            dropout_att=0.0,
        ),
        adapter=AdapterConfig("stack", stacking=2),
    ),
    lora=LoRA(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj")),
    prompt_format="digits",
    transcribe_prompt="repeat :",
)


def tokenizer_files() -> dict[str, bytes]:
    """One id a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[:5])
    settings = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<|end|>"}
    return {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def tokenizer() -> ChatTokenizer:
    """The tokenizer of these files."""
    return ChatTokenizer(tokenizer_files(), prompt_format="digits")


def salm(seed: int = 0, **changes: Any) -> SALM:
    """A SALM with random weights large enough to matter, its adapters' among them."""
    torch.manual_seed(seed)
    model = SALM(replace(CONFIG, **changes), tokenizer())
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("perception.encoder"):
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    return model.eval()


def voicetextblender(**changes: Any) -> VoiceTextBlender:
    """A VoiceTextBlender with random weights, whose adapter is a Conformer."""
    torch.manual_seed(0)
    small = CONFIG.perception
    conformer = replace(small.encoder, feat_in=12, subsampling_factor=1)
    perception = replace(small, adapter=AdapterConfig("conformer", conformer=conformer))
    config = VoiceTextBlenderConfig(
        CONFIG.backbone,
        perception,
        CONFIG.lora,
        CONFIG.prompt_format,
        transcribe_prompt="repeat :",
        **changes,
    )
    return VoiceTextBlender(config, tokenizer()).eval()


def noise(seconds: float, seed: int = 0) -> tuple[Any, int]:
    """A recording of noise as an (array, rate) pair."""
    generator = torch.Generator().manual_seed(seed)
    return (0.1 * torch.randn(round(seconds * RATE), generator=generator)).numpy(), RATE
