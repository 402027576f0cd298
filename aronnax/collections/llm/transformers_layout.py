"""Causal language models of transformers: any decoder-only architecture with safetensors and a tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.chat.tokenizer import FILES, TOKENIZER
from aronnax.collections.llm.model import LanguageModelConfig
from aronnax.core.errors import AronnaxError, CheckpointError
from aronnax.core.parts import Parts


def serves(transformers_type: str) -> bool:
    """Whether that `model_type` is a causal language model of the installed transformers."""
    try:
        BackboneConfig(transformers_type).to_transformers()
    except AronnaxError:
        return False
    return True


def read(folder: Path) -> Parts:
    """Open a folder that transformers wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not belong together.
        ConfigError: it is no decoder-only language model.
    """
    backbone, files = Backbone.from_pretrained(folder)
    if TOKENIZER not in files:
        raise CheckpointError(
            f"{folder} has no {TOKENIZER}; save its fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
    return Parts(
        where=str(folder),
        model_type="causal_lm",
        config=LanguageModelConfig(backbone.config),
        assets={name: content for name, content in files.items() if name in FILES},
        tensors={f"llm.{name}": tensor for name, tensor in backbone.state_dict().items()},
        details={"format": "transformers folder", "architecture": backbone.config.architecture},
    )
