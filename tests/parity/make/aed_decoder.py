"""Writes tests/parity/fixtures/aed_decoder.npz with NeMo's Transformer decoder, head and search; run where NeMo is.

    python tests/parity/make/aed_decoder.py

Everything is random, small and ragged. Rows are searched one at a time: NeMo limits the answers of all rows by the
longest row of the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.modules.transformer.transformer import TransformerDecoderNM
from nemo.collections.asr.modules.transformer.transformer_generators import (
    BeamSearchSequenceGenerator,
    GreedySequenceGenerator,
)
from nemo.collections.asr.parts.submodules.token_classifier import TokenClassifier
from nemo.core.classes.common import typecheck

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "aed_decoder.npz"
WIDTH, INNER, LAYERS, HEADS, VOCABULARY, LONGEST = 16, 24, 2, 4, 40, 40
FRAMES = [9, 1, 14, 6, 12, 3]
TOKENS = [7, 10, 3, 1, 8, 5]
PAD, EOS, PROMPT, DELTA = 2, 3, 4, 12
# name: pre_ln, final norm, learned positions, activation
SHAPES = {
    "canary": (True, True, False, "relu"),
    "unfinished": (True, False, False, "relu"),
    "post": (False, True, True, "gelu"),
}
# name: beam, length penalty
SEARCHES = {"beam4": (4, 0.0), "beam4_penalty": (4, 1.0), "beam3": (3, 0.6)}


def randomised(module: torch.nn.Module, scale: float) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(float("norm" in name and name.endswith("weight")), scale)
    return module.eval()


def store(out: dict[str, Any], prefix: str, module: torch.nn.Module) -> None:
    for name, value in module.state_dict().items():
        out[f"{prefix}/{name}"] = value.numpy()


def search(
    out: dict[str, Any], name: str, decoder: Any, head: Any, states: Any, frames: Any, prompts: Any
) -> None:
    """Greedy and beam answers of each row alone, with prompts and padding as NeMo leaves them."""
    common = {"pad": PAD, "bos": 4, "eos": EOS, "max_sequence_length": LONGEST, "max_delta_length": DELTA}
    greedy = GreedySequenceGenerator(decoder.embedding, decoder.decoder, head, **common)
    beams = {
        key: BeamSearchSequenceGenerator(
            decoder.embedding, decoder.decoder, head, beam_size=beam, len_pen=penalty, **common
        )
        for key, (beam, penalty) in SEARCHES.items()
    }
    for row, length in enumerate(frames.tolist()):
        inputs = (prompts[row : row + 1], states[row : row + 1, :length], torch.ones(1, length))
        out[f"{name}/greedy/{row}"] = greedy(*inputs)[0][0].numpy()
        for key, beam in beams.items():
            out[f"{name}/{key}/{row}"] = beam(*inputs, return_beam_scores=True)[2][0].numpy()


@torch.no_grad()
def main() -> None:
    """Write the fixture."""
    torch.manual_seed(0)
    out: dict[str, Any] = {"frames": np.array(FRAMES), "lengths": np.array(TOKENS)}
    with typecheck.disable_checks():
        for name, (pre_ln, final, learned, activation) in SHAPES.items():
            decoder = TransformerDecoderNM(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                num_layers=LAYERS,
                inner_size=INNER,
                num_attention_heads=HEADS,
                max_sequence_length=LONGEST,
                num_token_types=0,
                learn_positional_encodings=learned,
                hidden_act=activation,
                pre_ln=pre_ln,
                pre_ln_final_layer_norm=final,
            )
            head = TokenClassifier(WIDTH, VOCABULARY)
            randomised(decoder, 0.4)
            randomised(head, 0.4)
            head.mlp.layer0.weight = decoder.embedding.token_embedding.weight
            head.mlp.layer0.bias[EOS] += 2.0
            store(out, f"{name}/transf_decoder", decoder)
            store(out, f"{name}/log_softmax", head)
            states = torch.randn(len(FRAMES), max(FRAMES), WIDTH)
            tokens = torch.randint(4, VOCABULARY, (len(TOKENS), max(TOKENS)))
            frames, lengths = torch.tensor(FRAMES), torch.tensor(TOKENS)
            seen = (torch.arange(max(TOKENS)) < lengths[:, None]).float()
            heard = (torch.arange(max(FRAMES)) < frames[:, None]).float()
            log_probs = head(decoder(tokens, seen, states, heard))
            prompts = torch.randint(4, VOCABULARY, (len(FRAMES), PROMPT))
            out |= {f"{name}/states": states.numpy(), f"{name}/tokens": tokens.numpy()}
            out |= {f"{name}/log_probs": log_probs.numpy(), f"{name}/prompts": prompts.numpy()}
            search(out, name, decoder, head, states, frames, prompts)
    np.savez_compressed(FIXTURE, **out)


if __name__ == "__main__":
    main()
