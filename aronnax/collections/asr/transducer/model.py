"""FastConformer transducer: RNN-T, or TDT when durations are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.asr.transducer.decoding import TransducerCarry, TransducerDecoder
from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig, PredictionNetwork
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text import Tokenizer
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class TransducerModelConfig:
    """Configuration of a transducer."""

    vocab_size: int
    """Tokens of the tokenizer, without the blank."""
    preprocessor: LogMelConfig = field(default_factory=LogMelConfig)
    encoder: FastConformerConfig = field(default_factory=FastConformerConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    durations: tuple[int, ...] = ()
    """Frames that a TDT step may advance, in the order of the joint's last outputs; empty makes an RNN-T."""
    max_symbols: int = 10
    """Most tokens at one frame in decoding."""

    def __post_init__(self) -> None:
        if self.durations and (min(self.durations) < 0 or len(set(self.durations)) < len(self.durations)):
            raise ConfigError(f"durations {self.durations} must be different and not negative")
        if self.durations and max(self.durations) == 0:
            raise ConfigError("durations (0,) never advance: add at least one positive duration")
        if self.max_symbols < 1:
            raise ConfigError(f"max_symbols is {self.max_symbols}; it must be at least 1")


class TransducerModel(SpeechRecognizer):
    """Recogniser with a prediction network and a joint."""

    model_type: ClassVar[str] = "transducer"
    Config: ClassVar[type] = TransducerModelConfig

    def __init__(self, config: TransducerModelConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, tokenizer)
        self.decoder = PredictionNetwork(config.prediction, config.vocab_size)
        self.joint = Joint(
            config.joint,
            config.encoder.d_model,
            config.prediction.hidden,
            config.vocab_size,
            len(config.durations),
        )
        self._greedy = TransducerDecoder(self.decoder, self.joint, config.durations, config.max_symbols)

    @property
    def heads(self) -> tuple[str, ...]:
        """`("tdt",)` with durations, else `("rnnt",)`."""
        return ("tdt",) if self.config.durations else ("rnnt",)

    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list[Hypothesis], TransducerCarry]:
        """Greedy tokens of encoder states [B, T, D]; `carry` goes on where an earlier call stopped."""
        self.choose_head(head)
        return self._greedy(states, lengths, confidence=confidence, carry=carry)
