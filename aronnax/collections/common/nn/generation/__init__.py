"""Decoding token by token, whatever the model: greedy, sampling and beam search over anything that is a `Decoder`."""

from aronnax.collections.common.nn.generation.engine import generate, generate_stream
from aronnax.collections.common.nn.generation.options import Generated, GenerationOptions, Said
from aronnax.collections.common.nn.generation.protocols import Cache, Decoder, Guard

__all__ = [
    "Cache",
    "Decoder",
    "Generated",
    "GenerationOptions",
    "Guard",
    "Said",
    "generate",
    "generate_stream",
]
