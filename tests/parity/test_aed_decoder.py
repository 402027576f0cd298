"""Canary's decoder and head against NeMo 3.0.0 (fixtures/aed_decoder.npz), to 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.asr.canary.decoder import (
    TokenClassifier,
    TransformerDecoder,
    TransformerDecoderConfig,
)

FIXTURE = np.load(Path(__file__).resolve().parent / "fixtures" / "aed_decoder.npz")
VOCABULARY = 40
# as in make/aed_decoder.py: pre_ln, final norm, learned positions, activation
SHAPES = {
    "canary": (True, True, False, "relu"),
    "unfinished": (True, False, False, "relu"),
    "post": (False, True, True, "gelu"),
}


def tensor(name):
    return torch.from_numpy(FIXTURE[name])


def load(module, prefix):
    names = [name for name in FIXTURE.files if name.startswith(f"{prefix}/")]
    module.load_state_dict({name[len(prefix) + 1 :]: tensor(name) for name in names})
    return module.eval()


def modules(name):
    pre_ln, final, learned, activation = SHAPES[name]
    config = TransformerDecoderConfig(
        hidden_size=16, inner_size=24, n_layers=2, n_heads=4, max_sequence_length=40, activation=activation,
        pre_ln=pre_ln, pre_ln_final=final, learned_positions=learned,
    )  # fmt: skip
    decoder, head = TransformerDecoder(config, VOCABULARY), TokenClassifier(16, VOCABULARY)
    load(decoder, f"{name}/transf_decoder")
    head.tie(decoder.token_embedding)
    return decoder, load(head, f"{name}/log_softmax")


@pytest.mark.parametrize("name", SHAPES)
def test_log_probs_of_given_tokens_equal_nemos(name):
    decoder, head = modules(name)
    with torch.no_grad():
        ours = head(decoder(tensor(f"{name}/tokens"), tensor(f"{name}/states"), tensor("frames")))
    valid = torch.arange(ours.shape[1]) < tensor("lengths")[:, None]
    torch.testing.assert_close(ours[valid], tensor(f"{name}/log_probs")[valid], atol=1e-4, rtol=1e-4)
