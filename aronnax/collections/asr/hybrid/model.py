"""FastConformer with two heads: a transducer (RNN-T or TDT) and CTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from aronnax.collections.asr.ctc.decoding import ctc_greedy
from aronnax.collections.asr.ctc.head import CTCHead
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.transducer.model import TransducerModel, TransducerModelConfig
from aronnax.collections.common.text import Tokenizer


@dataclass(frozen=True)
class HybridModelConfig(TransducerModelConfig):
    """Configuration of a hybrid model."""

    ctc_weight: float = 0.3
    """Share of the CTC loss in training; the transducer's is 1 minus this."""


class HybridModel(TransducerModel):
    """A transducer with a CTC head beside it; `head="ctc"` decodes with that one."""

    model_type: ClassVar[str] = "hybrid"
    Config: ClassVar[type] = HybridModelConfig

    def __init__(self, config: HybridModelConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, tokenizer)
        self.ctc_decoder = CTCHead(config.encoder.d_model, config.vocab_size)

    @property
    def heads(self) -> tuple[str, ...]:
        """The transducer's name, then `ctc`."""
        return (*super().heads, "ctc")

    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list[Hypothesis], Any]:
        """Greedy tokens of encoder states [B, T, D] by the chosen head; `carry` must come from the same head."""
        if self.choose_head(head) == "ctc":
            return ctc_greedy(self.ctc_decoder(states), lengths, confidence=confidence, carry=carry)
        return super().decode(states, lengths, confidence=confidence, carry=carry)
