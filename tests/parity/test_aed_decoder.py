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
from aronnax.collections.asr.canary.stepping import Stepper
from aronnax.collections.common.nn.generation import GenerationOptions, generate

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


def searched(name, row, options, limits_beam):
    decoder, head = modules(name)
    length = tensor("frames")[row : row + 1]
    states = tensor(f"{name}/states")[row : row + 1, : int(length)]
    prompts = tensor(f"{name}/prompts")[row : row + 1]
    limits = decoder.limits(length, 12, limits_beam)
    bound = Stepper(decoder, head).bind(states, length)
    lengths = torch.tensor([prompts.shape[1]])
    return generate(bound, prompts, lengths, eos=3, pad=2, limits=limits, options=options)[0][0].tokens


def nemos(name, search, row):
    ids = tensor(f"{name}/{search}/{row}").tolist()[4:]
    while ids and ids[-1] in (2, 3):
        ids.pop()
    return ids


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("row", range(6))
def test_greedy_answers_equal_nemos(name, row):
    assert searched(name, row, GenerationOptions(), 1) == nemos(name, "greedy", row)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize(
    ("search", "beam", "penalty"), [("beam4", 4, 0.0), ("beam4_penalty", 4, 1.0), ("beam3", 3, 0.6)]
)
def test_beam_answers_equal_nemos(name, row, search, beam, penalty):
    options = GenerationOptions(beam=beam, length_penalty=penalty, nemo_beam=True)
    assert searched(name, row, options, beam) == nemos(name, search, row)
