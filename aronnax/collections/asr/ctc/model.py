"""FastConformer with a CTC head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from aronnax.collections.asr.ctc.decoding import CTCCarry, ctc_greedy
from aronnax.collections.asr.ctc.head import CTCHead
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text import Tokenizer


@dataclass(frozen=True)
class CTCModelConfig:
    """Configuration of a CTC model."""

    vocab_size: int
    """Tokens of the tokenizer, without the blank."""
    preprocessor: LogMelConfig = field(default_factory=LogMelConfig)
    encoder: FastConformerConfig = field(default_factory=FastConformerConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


class CTCModel(SpeechRecognizer):
    """Recogniser whose only head is CTC."""

    model_type: ClassVar[str] = "ctc"
    Config: ClassVar[type] = CTCModelConfig

    def __init__(self, config: CTCModelConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, tokenizer)
        self.decoder = CTCHead(config.encoder.d_model, config.vocab_size)

    @property
    def heads(self) -> tuple[str, ...]:
        """`("ctc",)`."""
        return ("ctc",)

    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list[Hypothesis], CTCCarry]:
        """Greedy tokens of encoder states [B, T, D]; `carry` goes on where an earlier call stopped."""
        self.choose_head(head)
        return ctc_greedy(self.decoder(states), lengths, confidence=confidence, carry=carry)
