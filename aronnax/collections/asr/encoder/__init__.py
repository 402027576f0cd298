"""FastConformer: log-mel features to encoder states."""

from aronnax.collections.asr.encoder.config import FastConformerConfig
from aronnax.collections.asr.encoder.fastconformer import EncoderOutput, Enter, FastConformer
from aronnax.collections.common.nn.windows import Attention

__all__ = ["Attention", "EncoderOutput", "Enter", "FastConformer", "FastConformerConfig"]
