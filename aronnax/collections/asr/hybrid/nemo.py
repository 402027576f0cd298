"""NeMo's EncDecHybridRNNTCTCModel and EncDecHybridRNNTCTCBPEModel, each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.asr.hybrid.model import HybridModelConfig
from aronnax.collections.asr.nemo import ctc_head_size, ctc_head_to_nemo, shared_from_nemo, shared_to_nemo
from aronnax.collections.asr.nemo_tokenizers import (
    assets_from_nemo,
    files_to_nemo,
    tokenizer_of,
    tokenizer_section,
)
from aronnax.collections.asr.transducer.nemo import transducer_from_nemo, transducer_to_nemo
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError
from aronnax.core.registry import NemoFamily


def config_from_nemo(nemo: Mapping[str, Any]) -> HybridModelConfig:
    """NeMo's configuration -> ours."""
    values = {**shared_from_nemo(nemo), **transducer_from_nemo(nemo)}
    size = ctc_head_size(nemo, "aux_ctc.decoder", values["encoder"].d_model)
    if size != values["vocab_size"]:
        raise ConfigError(f"aux_ctc.decoder has {size} tokens but the transducer has {values['vocab_size']}")
    values["ctc_weight"] = nemo["aux_ctc"].get("ctc_loss_weight", 0.5)
    return from_dict(HybridModelConfig, values, "model")


def config_to_nemo(config: HybridModelConfig, assets: Mapping[str, bytes]) -> dict[str, Any]:
    """Our configuration -> NeMo's."""
    bpe = tokenizer_section(assets) is not None
    nemo = shared_to_nemo(config, "EncDecHybridRNNTCTCBPEModel" if bpe else "EncDecHybridRNNTCTCModel")
    head = ctc_head_to_nemo(config.encoder.d_model, list(tokenizer_of(assets).vocabulary))
    return {
        **nemo,
        **transducer_to_nemo(config, assets),
        "aux_ctc": {
            "ctc_loss_weight": config.ctc_weight,
            "use_cer": False,
            "decoder": head,
            "decoding": {"strategy": "greedy_batch"},
        },
    }


FAMILY = NemoFamily("hybrid", config_from_nemo, config_to_nemo, assets_from_nemo, files_to_nemo)
