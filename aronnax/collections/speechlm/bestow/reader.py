"""BESTOW's reader (arXiv 2406.19954): text embeddings query the speech, once, before the language model.

Two pre-normalising Transformer layers (causal self-attention over the text, cross-attention to the speech,
feed-forward), a last normalisation, and the untouched embeddings added to all of it. The layers are those of Canary's
decoder, and names and numbers NeMo's `TransformerDecoder`. There are no positions here: those of speech are in the
encoder's states, those of text in causality.

Legend: `B` rows, `U` positions, `T` frames, `D` width of the language model, `W` width of the reader, `H` heads,
`K` width of a head.

>>> reader = Reader(ReaderConfig(n_heads=2), 8).eval()
>>> text, speech = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
>>> torch.equal(reader(text, speech, torch.zeros(1, 3, dtype=torch.long)), text)      # nothing seen, nothing changed
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.canary.decoder import (
    DecoderLayer,
    DecoderStack,
    MultiHeadAttention,
    TransformerDecoderConfig,
)
from aronnax.collections.asr.canary.stepping import look_across, look_back, look_first
from aronnax.collections.common.nn.cache import CrossMemory, KeyValueCache
from aronnax.collections.common.nn.masks import any_padding
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class ReaderConfig:
    """Shape of the reader; defaults are the released ones."""

    n_layers: int = 2
    """Layers of self-attention, cross-attention and feed-forward."""
    width: int | None = None
    """Width W inside; the language model's where None. Another one is reached and left by linear layers."""
    inner_size: int | None = None
    """Width inside the feed-forward blocks; W where None."""
    n_heads: int = 8
    """Heads of both attentions; must divide W."""
    attention_dropout: float = 0.1
    """Dropout of attention weights."""
    layer_dropout: float = 0.1
    """Dropout of each attention's output."""
    ffn_dropout: float = 0.1
    """Dropout of each feed-forward block's output."""
    zero_start: bool = False
    """Whether a last linear layer begins with zeros, so that an untrained reader leaves the language model alone."""

    def __post_init__(self) -> None:
        for name, value in (
            ("n_layers", self.n_layers),
            ("width", self.width),
            ("inner_size", self.inner_size),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"reader.{name} is {value}: it must be 1 or more")


@dataclass
class ReaderMemory(CrossMemory):
    """Keys and values of the speech, a pair a layer, shared by a group's rows."""

    hears: Tensor
    """bool [G, 1, 1]; whether the row has any speech."""

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order, in the first places."""
        super().select(groups)
        places = torch.tensor(list(groups), dtype=torch.int64, device=self.hears.device)
        self.hears[: len(groups)] = self.hears[places]


class Reader(nn.Module):
    """Lets text embeddings [B, U, D] look at speech [B, T, D] of the same width."""

    def __init__(self, config: ReaderConfig, width: int) -> None:
        """Fresh, for a language model of `width` D."""
        super().__init__()
        self.config = config
        inside = config.width or width
        self.xattn_decoder = DecoderStack(_layers(config, inside))
        other = inside != width
        self.input_proj1 = nn.Linear(width, inside) if other else nn.Identity()
        self.input_proj2 = nn.Linear(width, inside) if other else nn.Identity()
        leave = other or config.zero_start
        self.output_proj: nn.Module = nn.Linear(inside, width) if leave else nn.Identity()
        if isinstance(self.output_proj, nn.Linear) and config.zero_start:
            nn.init.zeros_(self.output_proj.weight)
            nn.init.zeros_(self.output_proj.bias)

    def forward(self, text: Tensor, speech: Tensor, seen: Tensor, ratio: Tensor | None = None) -> Tensor:
        """Text [B, U, D] that has looked at the first `seen` [B, U] frames of speech [B, T, D].

        A position that sees nothing stays as it is, bit for bit. `ratio` [B] blends: 0 is the text untouched.
        """
        speech = _something(speech)
        bias = sight_bias(seen, speech.shape[1], text.dtype)
        read = self.xattn_decoder(self.input_proj1(text), self.input_proj2(speech), bias)
        return _blend(text, self.output_proj(read), seen[:, :, None] > 0, ratio)

    @torch.inference_mode()
    def remember(self, speech: Tensor, lengths: Tensor) -> ReaderMemory:
        """Keys and values of speech [B, T, D] of lengths [B], for all layers."""
        speech = self.input_proj2(_something(speech))
        keys, values = [], []
        for layer in self._layers():
            attention = layer.second_sub_layer
            keys.append(attention.heads_of(attention.key_net(speech)).transpose(1, 2).contiguous())
            values.append(attention.heads_of(attention.value_net(speech)).transpose(1, 2).contiguous())
        bias = sight_bias(lengths[:, None], speech.shape[1], speech.dtype)
        return ReaderMemory(keys, values, bias, (lengths > 0)[:, None, None])

    @torch.inference_mode()
    def prefill(
        self, text: Tensor, lengths: Tensor, seen: Tensor, memory: ReaderMemory, capacity: int
    ) -> tuple[Tensor, KeyValueCache]:
        """What `forward` gives for text [B, U, D] of lengths [B], and a cache to go on from."""
        batch, tokens = text.shape[:2]
        cache = self._cache(batch, max(capacity, tokens), text)
        cache.memory = memory
        cache.longest = tokens
        cache.lengths.copy_(lengths)
        cache.even = not any_padding(lengths, tokens)
        bias = sight_bias(seen, memory.keys[0].shape[2], text.dtype)
        x = self.input_proj1(text)
        for number, layer in enumerate(self._layers()):
            x = layer.run(
                x,
                partial(look_first, layer.first_sub_layer, cache, number),
                partial(_look, layer.second_sub_layer, memory.keys[number], memory.values[number], bias),
            )
        return _blend(text, self._leave(x), seen[:, :, None] > 0, None), cache

    @torch.inference_mode()
    def step(self, text: Tensor, cache: KeyValueCache) -> Tensor:
        """One more embedding of each row [B, D], which sees all of the memory -> [B, D]; the cache moves on."""
        rows, window = len(text), min(cache.longest + 1, cache.capacity)
        index = torch.arange(rows, device=text.device)
        hidden = cache.bias(rows, window)
        x = self.input_proj1(text[:, None])
        for number, layer in enumerate(self._layers()):
            x = layer.run(
                x,
                partial(look_back, layer.first_sub_layer, cache, number, index, hidden, window),
                partial(look_across, layer.second_sub_layer, cache, number),
            )
        cache.advance(rows)
        cache.longest = window
        assert isinstance(cache.memory, ReaderMemory)
        hears = cache.memory.hears[: rows // cache.beam].repeat_interleave(cache.beam, 0)
        return _blend(text[:, None], self._leave(x), hears, None)[:, 0]

    @torch.inference_mode()
    def restore(self, keys: Tensor, values: Tensor, capacity: int) -> KeyValueCache:
        """A cache of what was kept of U positions: keys and values [L, B, U, H, K]; its memory is still to be set."""
        rows, tokens = keys.shape[1:3]
        cache = self._cache(rows, capacity, keys)
        for number in range(self.config.n_layers):
            cache.fill(number, keys[number], values[number])
        cache.lengths.fill_(tokens)
        cache.longest, cache.even = tokens, True
        return cache

    @property
    def kept_shape(self) -> tuple[int, int, int]:
        """Layers, heads and width of a head of what a cache keeps."""
        attention = self._layers()[0].first_sub_layer
        return self.config.n_layers, attention.heads, attention.query_net.out_features // attention.heads

    def _layers(self) -> list[DecoderLayer]:
        return [cast(DecoderLayer, layer) for layer in self.xattn_decoder.layers]

    def _leave(self, x: Tensor) -> Tensor:
        final = self.xattn_decoder.final_layer_norm
        out: Tensor = self.output_proj(x if final is None else final(x))
        return out

    def _cache(self, rows: int, capacity: int, like: Tensor) -> KeyValueCache:
        layers, heads, width = self.kept_shape
        return KeyValueCache(layers, rows, capacity, heads, width, like)


def sight_bias(seen: Tensor, frames: int, dtype: torch.dtype) -> Tensor | None:
    """Hides frames beyond `seen` [B, U]: added to scores [B, 1, U, T]; None where a CPU sees nothing is hidden.

    A position that sees nothing looks at the first frame, whatever that holds, instead of giving NaN.
    """
    if seen.device.type == "cpu" and bool((seen >= frames).all()):
        return None
    hidden = torch.arange(frames, device=seen.device) >= seen.clamp(min=1)[:, :, None]
    bias = torch.zeros(hidden.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill_(hidden, -math.inf)[:, None]


def _layers(config: ReaderConfig, width: int) -> TransformerDecoderConfig:
    return TransformerDecoderConfig(
        hidden_size=width,
        inner_size=config.inner_size or width,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        activation="relu",
        pre_ln=True,
        pre_ln_final=True,
        attention_dropout=config.attention_dropout,
        layer_dropout=config.layer_dropout,
        ffn_dropout=config.ffn_dropout,
    )


def _look(
    attention: MultiHeadAttention, keys: Tensor, values: Tensor, bias: Tensor | None, x: Tensor
) -> Tensor:
    """Cross-attention of x [B, U, W] to keys and values [B, H, T, K]."""
    query = attention.heads_of(attention.query_net(x)).transpose(1, 2)
    return attention.leave(F.scaled_dot_product_attention(query, keys, values, bias))


def _something(speech: Tensor) -> Tensor:
    """Speech of one frame at least: attention to nothing has no answer."""
    return speech if speech.shape[1] else speech.new_zeros(speech.shape[0], 1, speech.shape[2])


def _blend(text: Tensor, read: Tensor, hears: Tensor, ratio: Tensor | None) -> Tensor:
    """text + ratio * read where a position hears anything, else the text itself."""
    if ratio is None:
        return torch.where(hears, text + read, text)
    share = ratio.to(text.dtype)[:, None, None]
    return torch.where(hears & (share != 0), text + share * read, text)
