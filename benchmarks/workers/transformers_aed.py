"""transformers' side of the encoder-decoder benchmark: BART's decoder, whose layers are Canary's, at the same shape.

Its greedy `generate` runs from given encoder states, with random weights and its key/value cache.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from protocol import serve
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

_model: Any = None
_states: Any = None


def build(weights: str, shape: dict[str, int], threads: int) -> None:
    """A random model of `shape`, and the encoder states of the file `weights`."""
    global _model, _states
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _states = torch.load(weights, weights_only=True)["states"]
    config = BartConfig(
        vocab_size=shape["vocabulary"],
        d_model=shape["width"],
        encoder_layers=1,
        decoder_layers=shape["layers"],
        decoder_attention_heads=shape["heads"],
        encoder_attention_heads=shape["heads"],
        decoder_ffn_dim=shape["inner"],
        encoder_ffn_dim=8,
        activation_function="relu",
        max_position_embeddings=shape["longest"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    _model = BartForConditionalGeneration(config).eval()


@torch.inference_mode()
def decode(batch: int, prompt: list[int], tokens: int) -> dict[str, Any]:
    """Greedy answers of exactly `tokens` tokens, and seconds."""
    states = _states[:batch]
    prompts = torch.tensor([prompt] * batch)
    start = time.perf_counter()
    answers = _model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=torch.ones(states.shape[:2], dtype=torch.int64),
        decoder_input_ids=prompts,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
    )
    elapsed = time.perf_counter() - start
    return {"seconds": elapsed, "tokens": answers[:, len(prompt) :].tolist()}


if __name__ == "__main__":
    serve({"build": build, "decode": decode})
