"""Configuration of a Canary model."""

from __future__ import annotations

from dataclasses import dataclass, field

from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.ctc.model import CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig

ROUNDED_TO = 8
"""The decoder has a multiple of so many outputs; those beyond the vocabulary are never written."""


@dataclass(frozen=True)
class DecodingConfig:
    """How text is searched where the caller does not say."""

    beam: int = 1
    """Hypotheses kept; 1 is greedy."""
    length_penalty: float = 0.0
    """Exponent of the length normalisation ((5 + length) / 6); 0 for none."""
    max_generation_delta: int = 50
    """Prompt and text have at most as many tokens as there are encoder frames plus this; negative: no such limit."""


@dataclass(frozen=True)
class CanaryConfig:
    """Configuration of a Canary model; defaults are those of canary-1b-flash."""

    vocab_size: int
    """Tokens of the tokenizer."""
    preprocessor: LogMelConfig = field(default_factory=lambda: LogMelConfig(n_mels=128))
    encoder: FastConformerConfig = field(
        default_factory=lambda: FastConformerConfig(feat_in=128, n_layers=32, d_model=1024)
    )
    decoder: TransformerDecoderConfig = field(default_factory=TransformerDecoderConfig)
    prompt_format: str = "canary2"
    """`canary` or `canary2`."""
    prompt_defaults: dict[str, str] = field(default_factory=dict)
    """Values of slots that neither the caller nor a manifest gives."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    longest_seconds: float = 40.0
    """Longer recordings are heard in pieces of at most this length: the model was trained on no longer ones."""
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    aligner: CTCModelConfig | None = None
    """A second model, used only to find when the words of a text were said (canary-1b-v2)."""

    @property
    def outputs(self) -> int:
        """Rows of the token embedding and of the head."""
        return -(-self.vocab_size // ROUNDED_TO) * ROUNDED_TO
