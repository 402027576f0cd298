"""NeMo's EncDecCTCModel and EncDecCTCModelBPE, each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.ctc.model import CTCModelConfig
from aronnax.collections.asr.nemo import ctc_head_size, ctc_head_to_nemo, shared_from_nemo, shared_to_nemo
from aronnax.collections.asr.nemo_tokenizers import (
    assets_from_nemo,
    files_to_nemo,
    tokenizer_of,
    tokenizer_section,
)
from aronnax.core.registry import NemoFamily


def config_from_nemo(nemo: Mapping[str, Any]) -> CTCModelConfig:
    """NeMo's configuration -> ours."""
    shared = shared_from_nemo(nemo)
    return CTCModelConfig(vocab_size=ctc_head_size(nemo, "decoder", shared["encoder"].d_model), **shared)


def config_to_nemo(config: CTCModelConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """Our configuration -> NeMo's."""
    vocabulary = list(tokenizer_of(assets).vocabulary)
    section = tokenizer_section(assets)
    nemo = shared_to_nemo(config, "EncDecCTCModelBPE" if section else "EncDecCTCModel")
    nemo["decoder"] = ctc_head_to_nemo(config.encoder.d_model, vocabulary)
    if section:
        nemo["tokenizer"] = section
    else:
        nemo["labels"] = vocabulary
    return nemo


FAMILY = NemoFamily("ctc", config_from_nemo, config_to_nemo, assets_from_nemo, files_to_nemo)
