"""What moving layers from the decoder to the encoder buys: 24/24 against 32/4 layers, scaled down, same parameters.

python benchmarks/decoder_shift.py [--repeats N] [--threads N]

Canary-1B has 24 encoder and 24 decoder layers, Canary-1B-flash 32 and 4 ("Training and Inference Efficiency of
Encoder-Decoder Speech Models" reports about three times the speed on a GPU). Here both are narrowed, to widths that
give equal parameters (within 1.5 %), and transcribe ten seconds into 40 tokens with our encoder and
decoding engine: random weights, forced length.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from peers import alternate, save, seconds

from aronnax.collections.asr.canary.decoder import (
    TokenClassifier,
    TransformerDecoder,
    TransformerDecoderConfig,
)
from aronnax.collections.asr.canary.stepping import Stepper
from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.asr.encoder.fastconformer import FastConformer
from aronnax.collections.common.nn.generation import generate

PAPER = 3.0
SHAPES = {"24/24": (24, 24, 240), "32/4": (32, 4, 256)}
"""Encoder layers, decoder layers, width."""
VOCABULARY, HEADS, FRAMES, TOKENS, EOS = 1024, 4, 1000, 40, 2
PROMPT = [7, 4, 16, 62, 62, 5, 9, 11, 13]


class Recogniser:
    """An encoder and a decoder of one shape."""

    def __init__(self, encoder_layers: int, decoder_layers: int, width: int) -> None:
        torch.manual_seed(0)
        self.encoder = FastConformer(
            FastConformerConfig(n_layers=encoder_layers, d_model=width, n_heads=HEADS)
        ).eval()
        config = TransformerDecoderConfig(width, 4 * width, decoder_layers, HEADS)
        self.decoder = TransformerDecoder(config, VOCABULARY).eval()
        self.head = TokenClassifier(width, VOCABULARY).eval()
        self.head.tie(self.decoder.token_embedding)
        with torch.no_grad():
            self.head.mlp.layer0.bias[EOS] = -1e4
        self.stepper = Stepper(self.decoder, self.head)

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers; embeddings and subsampling, which do not scale alike, left out."""
        layers = (self.encoder.layers, self.decoder.stack.layers)
        return sum(parameter.numel() for part in layers for parameter in part.parameters())

    @torch.inference_mode()
    def encode(self, batch: int) -> Any:
        """Encoder output of random features."""
        return self.encoder(torch.randn(batch, FRAMES, 80), torch.full((batch,), FRAMES))

    @torch.inference_mode()
    def transcribe(self, batch: int) -> None:
        """Ten seconds a row, 40 tokens a row."""
        output = self.encode(batch)
        prompts, lengths = torch.tensor([PROMPT] * batch), torch.full((batch,), len(PROMPT))
        bound = self.stepper.bind(output.states, output.lengths)
        answers = generate(bound, prompts, lengths, eos=EOS, limits=lengths + TOKENS)
        assert all(len(answer[0].tokens) == TOKENS for answer in answers)


def main() -> None:
    """Run the comparison and write benchmarks/results/decoder_shift.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {name: Recogniser(*shape) for name, shape in SHAPES.items()}
    sizes = {name: model.layer_parameters for name, model in models.items()}
    for name, size in sizes.items():
        print(f"{name}: width {SHAPES[name][2]}, {size / 1e6:.1f} M parameters in layers")
    rows = []
    for batch in (1, 8):
        whole = alternate(
            {n: (lambda m=m, b=batch: seconds(lambda: m.transcribe(b))) for n, m in models.items()},
            options.repeats,
        )
        encoding = alternate(
            {n: (lambda m=m, b=batch: seconds(lambda: m.encode(b))) for n, m in models.items()},
            options.repeats,
        )
        ratio = whole["24/24"] / whole["32/4"]
        print(f"batch {batch}: " + "  ".join(
            f"{name} {whole[name] * 1e3:.0f} ms (encoder {encoding[name] * 1e3:.0f})" for name in models
        ) + f"  speed-up {ratio:.2f} (paper: {PAPER:.0f} on a GPU)", flush=True)  # fmt: skip
        rows.append({"batch": batch, "seconds": whole, "encoder_seconds": encoding, "speed_up": ratio})
    save(
        "decoder_shift",
        {"parameters": sizes, "threads": options.threads, "tokens": TOKENS, "paper": PAPER, "rows": rows},
    )


if __name__ == "__main__":
    main()
