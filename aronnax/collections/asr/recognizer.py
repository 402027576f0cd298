"""What every speech recogniser has: a front end, an encoder, heads to decode with, and `transcribe`.

Shapes: B batch, S samples, T frames, F mel bands, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aronnax.collections.asr.encoder import FastConformer
from aronnax.collections.common.audio.augment import SpecAugment
from aronnax.collections.common.audio.features import LogMel
from aronnax.collections.common.text import Tokenizer, tokenizer_from_assets
from aronnax.core.errors import OptionError
from aronnax.core.model import Model

if TYPE_CHECKING:
    from aronnax.collections.asr.encoder import Attention, EncoderOutput
    from aronnax.collections.asr.hypothesis import Hypothesis


class SpeechRecognizer(Model):
    """Base of the CTC, transducer and hybrid models; a subclass adds its heads and `decode`.

    The configuration holds at least `preprocessor`, `encoder` and `spec_augment`.
    """

    def __init__(self, config: Any, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.preprocessor = LogMel(config.preprocessor)
        self.spec_augmentation = SpecAugment(config.spec_augment)
        self.encoder = FastConformer(config.encoder)

    @classmethod
    def build(cls, config: Any, assets: Mapping[str, bytes]) -> SpeechRecognizer:
        """The model of `config` with the tokenizer held by `assets` (none when there are no assets)."""
        return cls(config, tokenizer_from_assets(assets) if assets else None)

    def assets(self) -> dict[str, bytes]:
        """The tokenizer's files, stored beside the weights."""
        return {} if self.tokenizer is None else self.tokenizer.assets()

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that `decode` accepts; the first is the default."""

    @abstractmethod
    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list[Hypothesis], Any]:
        """Encoder states [B, T, D] with lengths [B] -> one hypothesis a row, and the carry to go on from."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signal that `encode` takes."""
        return int(self.config.preprocessor.sample_rate)

    @property
    def samples_per_frame(self) -> int:
        """Samples from one encoder frame to the next."""
        hop = round(self.config.preprocessor.window_stride * self.sample_rate)
        return int(hop * self.config.encoder.subsampling_factor)

    def encode(self, signal: Tensor, lengths: Tensor, attention: Attention | None = None) -> EncoderOutput:
        """Signal [B, S] at `sample_rate` with lengths [B] in samples -> encoder states [B, T, D].

        SpecAugment is applied in training mode only. `attention` overrides the encoder's own for this call.
        """
        features, lengths = self.preprocessor(signal, lengths)
        if self.training:
            features = self.spec_augmentation(features, lengths)
        output: EncoderOutput = self.encoder(features, lengths, attention=attention)
        return output

    def choose_head(self, head: str | None) -> str:
        """`head` if this model has it, its first one for None; OptionError otherwise."""
        if head is None:
            return self.heads[0]
        if head not in self.heads:
            raise OptionError(f"head {head!r} is not one of this model's heads: {', '.join(self.heads)}")
        return head
