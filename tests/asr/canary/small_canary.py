"""Canary models small enough to build in a test, with random weights that decide clearly."""

from __future__ import annotations

import numpy as np
import torch

from aronnax.collections.asr.canary.config import CanaryConfig, DecodingConfig
from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text.prompts import (
    CanaryTokenizer,
    first_generation,
    second_generation,
    train_canary_tokenizer,
)

RATE = 16000
TEXTS = {
    "en": ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"] * 10,
    "de": ["zwei boxkaempfer jagen eva quer durch sylt", "falsches ueben quaelt jeden zwerg"] * 10,
}


def small_tokenizer(prompt: str = "canary2", aggregate: bool = True) -> CanaryTokenizer:
    """English and German, a few dozen pieces."""
    tokens = (
        first_generation(["en", "de"], spare=1)
        if prompt == "canary"
        else second_generation(["en", "de"], frames=40, speakers=0, spare=0)
    )
    if aggregate:
        return train_canary_tokenizer(TEXTS, 45, tokens)
    return train_canary_tokenizer([*TEXTS["en"], *TEXTS["de"]], len(tokens) + 60, tokens)


def small_canary(
    prompt: str = "canary2", aggregate: bool = True, longest_seconds: float = 40.0, lively: bool = True
) -> CanaryModel:
    """A model of two and two layers in eval mode; a `lively` one says something else of every sound."""
    torch.manual_seed(5)
    tokenizer = small_tokenizer(prompt, aggregate)
    encoder = FastConformerConfig(
        feat_in=16, n_layers=2, d_model=16, n_heads=2, subsampling_conv_channels=8, conv_kernel_size=5
    )
    decoder = TransformerDecoderConfig(
        hidden_size=24, inner_size=48, n_layers=2, n_heads=2, max_sequence_length=64
    )
    config = CanaryConfig(
        vocab_size=tokenizer.vocab_size,
        preprocessor=LogMelConfig(n_mels=16),
        encoder=encoder,
        decoder=decoder,
        prompt_format=prompt,
        decoding=DecodingConfig(max_generation_delta=8),
        longest_seconds=longest_seconds,
    )
    model = CanaryModel(config, tokenizer).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("transf_decoder", "encoder_decoder_proj")) and weight.ndim > 1:
                weight.normal_(0.0, 0.5)
        # The head is tied: with signs that vary, a token does not ask for itself again.
        model.transf_decoder.get_submodule("_decoder.final_layer_norm").weight.normal_(0.0, 1.5)  # type: ignore[operator, union-attr]
        bias = model.log_softmax.mlp.layer0.bias
        bias.normal_(0.0, 0.3)
        for token in tokenizer.specials.values():
            bias[token] -= 4.0
        bias[tokenizer.end_id] += 4.5
        if lively:
            spread(model)
    return model


def spread(model: CanaryModel) -> None:
    """A projection after which states of different sounds differ clearly."""
    signals = [torch.from_numpy(samples) for samples, _ in noises([3.0, 3.0, 3.0], seed=9)]
    model.encoder_decoder_proj = torch.nn.Identity()
    states = model.encode(torch.stack(signals), torch.full((3,), 3 * RATE)).states.flatten(0, 1)
    projection = torch.nn.Linear(16, 24)
    projection.weight.copy_(torch.randn(24, 16) / states.std(0))
    projection.bias.copy_(-projection.weight @ states.mean(0))
    model.encoder_decoder_proj = projection.eval()


def noises(seconds: list[float], seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Noise whose loudness changes, so that random weights hear something else at each place."""
    generator = np.random.default_rng(seed)
    found = []
    for length in seconds:
        samples = round(length * RATE)
        shape = np.repeat(generator.uniform(0.01, 0.5, samples // 1600 + 1), 1600)[:samples]
        found.append(((shape * generator.standard_normal(samples)).astype(np.float32), RATE))
    return found
