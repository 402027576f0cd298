"""Prompts of encoder-decoders: from named slots to the ids a decoder starts with, as pure functions."""

from aronnax.collections.common.text.prompts.formats import PROMPT_FORMATS, prompt_format
from aronnax.collections.common.text.prompts.slots import Prompted, PromptFormat, Slot
from aronnax.collections.common.text.prompts.special_tokens import (
    build_special_tokenizer,
    first_generation,
    second_generation,
    train_canary_tokenizer,
)
from aronnax.collections.common.text.prompts.tokenizer import SPECIALS, CanaryTokenizer

__all__ = [
    "PROMPT_FORMATS",
    "SPECIALS",
    "CanaryTokenizer",
    "PromptFormat",
    "Prompted",
    "Slot",
    "build_special_tokenizer",
    "first_generation",
    "prompt_format",
    "second_generation",
    "train_canary_tokenizer",
]
