"""Toy language models of every family, and rows of text of different lengths."""

from __future__ import annotations

import torch

from aronnax.collections.llm.backbone import Backbone, BackboneConfig

VOCABULARY = 60
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SWAN = {
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"],
    "no_rope_layers": [0, 1, 1, 1],
    "use_sliding_window": True,
    "sliding_window": 8,
}
_HYBRID = {
    "hybrid_override_pattern": "MEM*E-M",
    "ssm_state_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "n_routed_experts": 8,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 24,
    "num_experts_per_tok": 2,
    "initializer_range": 0.15,
}
SHAPES = {
    "llama": _COMMON,
    "qwen3": _COMMON,
    "smollm3": _COMMON | _SWAN,
    "nemotron_h": {name: value for name, value in _COMMON.items() if name != "num_hidden_layers"} | _HYBRID,
}
"""The families that must decode exactly."""
OTHERS = {
    "mistral": _COMMON | {"sliding_window": 8},
    "qwen2": _COMMON
    | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "tie_word_embeddings": True},
    "gemma2": _COMMON | {"sliding_window": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "granite": _COMMON | {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "mamba2": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}
    | {
        "head_dim": 16,
        "state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "initializer_range": 0.3,
    }
    | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "lfm2": _COMMON | {"layer_types": ["conv", "full_attention", "conv"], "full_attn_idxs": [1]},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    | {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3},
}


def make(architecture: str, **changes: object) -> Backbone:
    """A random model that speaks differently after every text."""
    torch.manual_seed(3)
    settings = (SHAPES | OTHERS)[architecture] | changes
    backbone = Backbone(BackboneConfig(architecture, settings)).eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("bias") and "conv1d" not in name and "dt" not in name:
                parameter.normal_(0.0, 0.1)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
    return backbone


def texts(rows: int = 4, longest: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, U] and lengths [B], padded on the right with the pad id."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=draw)
    lengths[0] = longest
    ids = torch.randint(3, VOCABULARY, (rows, longest), generator=draw)
    return ids * (torch.arange(longest) < lengths[:, None]), lengths
