"""Canary's decoder one token at a time, bound to encoder states; what the decoding engine drives.

Legend: `B` rows, `P` prompt tokens, `T` encoder frames, `D` width, `H` heads, `K` width of a head, `V` vocabulary.

    stepper = Stepper(model.transf_decoder, model.log_softmax)         # kept with the model
    answers = generate(stepper.bind(states, lengths), prompts, prompt_lengths, eos=3, limits=limits)
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.asr.canary.decoder import (
    DecoderLayer,
    MultiHeadAttention,
    TokenClassifier,
    TransformerDecoder,
    padding_bias,
)
from aronnax.collections.common.nn.cache import CrossMemory, KeyValueCache
from aronnax.collections.common.nn.derived import Derived
from aronnax.collections.common.nn.generation.graphs import StepPool, StepRunner
from aronnax.collections.common.nn.masks import any_padding


class Stepper:
    """The modules of a model and the CUDA graphs captured for them; holds no state of a call."""

    def __init__(self, decoder: TransformerDecoder, head: TokenClassifier) -> None:
        self.decoder = decoder
        self.head = head
        self._derived = Derived()
        self.static: bool | None = None
        """Whether steps run in buffers of fixed sizes, as CUDA graphs need: None where there is a GPU."""

    def pool(self) -> StepPool:
        """The captured graphs, forgotten when a parameter has changed or moved."""
        sources = [*self.decoder.parameters(), *self.head.parameters()]
        found: StepPool = self._derived.get(sources, StepPool)
        return found

    def bind(self, states: Tensor, lengths: Tensor) -> BoundDecoder:
        """A decoder of states [B, T, D] with `lengths` [B]."""
        return BoundDecoder(self, states, lengths)

    @torch.inference_mode()
    def run(self, tokens: Tensor, cache: KeyValueCache, rows: int, window: int) -> Tensor:
        """One step of the first `rows` rows, looking back at `window` positions at most: scores [B, V].

        Only tensors say where a row stands, so a CUDA graph of this call serves every step of its sizes.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            index = torch.arange(rows, device=tokens.device)
            bias = cache.bias(rows, window)
            x = self.decoder.embedding.at(tokens, cache.lengths[:rows])
            for number, module in enumerate(self.decoder.stack.layers):
                layer = cast(DecoderLayer, module)
                x = layer.run(
                    x,
                    partial(look_back, layer.first_sub_layer, cache, number, index, bias, window),
                    partial(look_across, layer.second_sub_layer, cache, number),
                )
            cache.advance(rows)
            return self._scores(x[:, 0])

    def _scores(self, x: Tensor) -> Tensor:
        final = self.decoder.stack.final_layer_norm
        return self.head.logits(x if final is None else final(x))

    @torch.inference_mode()
    def prefill(
        self, tokens: Tensor, lengths: Tensor, memory: CrossMemory, capacity: int
    ) -> tuple[Tensor, KeyValueCache]:
        """Scores [B, V] after prompts [B, P], and a cache that holds them."""
        config = self.decoder.config
        batch, prompt = tokens.shape
        width = config.hidden_size // config.n_heads
        like = self.decoder.token_embedding.weight
        cache = KeyValueCache(config.n_layers, batch, capacity, config.n_heads, width, like)
        cache.memory = memory
        cache.longest = prompt
        cache.lengths.copy_(lengths)
        cache.even = not any_padding(lengths, prompt)
        with torch.autocast(tokens.device.type, enabled=False):
            x = self.decoder.embedding(tokens)
            for number, module in enumerate(self.decoder.stack.layers):
                layer = cast(DecoderLayer, module)
                x = layer.run(
                    x,
                    partial(look_first, layer.first_sub_layer, cache, number),
                    partial(look_across, layer.second_sub_layer, cache, number),
                )
            last = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])
            return self._scores(x.gather(1, last)[:, 0]), cache

    @torch.inference_mode()
    def remember(self, states: Tensor, lengths: Tensor) -> CrossMemory:
        """Keys and values of encoder states [B, T, D], for all layers."""
        states = states.to(self.decoder.token_embedding.weight.dtype)
        keys, values = [], []
        with torch.autocast(states.device.type, enabled=False):
            for module in self.decoder.stack.layers:
                attention = cast(DecoderLayer, module).second_sub_layer
                keys.append(attention.heads_of(attention.key_net(states)).transpose(1, 2).contiguous())
                values.append(attention.heads_of(attention.value_net(states)).transpose(1, 2).contiguous())
        return CrossMemory(keys, values, padding_bias(lengths, states.shape[1], states.dtype))


def look_first(attention: MultiHeadAttention, cache: KeyValueCache, number: int, x: Tensor) -> Tensor:
    """Self-attention over whole prompts [B, P, D], kept in the cache."""
    query, key, value = attention.project(x, x)
    cache.fill(number, key.transpose(1, 2), value.transpose(1, 2))
    return attention.leave(F.scaled_dot_product_attention(query, key, value, is_causal=True))


def look_back(
    attention: MultiHeadAttention,
    cache: KeyValueCache,
    number: int,
    index: Tensor,
    bias: Tensor | None,
    window: int,
    x: Tensor,
) -> Tensor:
    """Self-attention of one token [B, 1, D] to the cache, which it joins."""
    rows = len(x)
    one = x[:, 0]
    key, value = attention.heads_of(attention.key_net(one)), attention.heads_of(attention.value_net(one))
    cache.write(number, rows, index, key, value)
    query = attention.heads_of(attention.query_net(x)).transpose(1, 2)
    keys = cache.keys[number][:rows, :window].transpose(1, 2)
    values = cache.values[number][:rows, :window].transpose(1, 2)
    return attention.leave(F.scaled_dot_product_attention(query, keys, values, bias))


def look_across(attention: MultiHeadAttention, cache: KeyValueCache, number: int, x: Tensor) -> Tensor:
    """Cross-attention [B, U, D] to the memory; the rows of a group look at one copy of it."""
    memory = cache.memory
    assert memory is not None
    groups = len(x) // cache.beam
    query = attention.heads_of(attention.query_net(x).reshape(groups, -1, x.shape[2]))
    bias = None if memory.bias is None else memory.bias[:groups]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), memory.keys[number][:groups], memory.values[number][:groups], bias
    )
    out = out.transpose(1, 2).reshape(x.shape)
    return attention.out_projection(out)


class BoundDecoder:
    """A `Decoder` for the engine; its encoder states' keys and values are computed once."""

    def __init__(self, stepper: Stepper, states: Tensor, lengths: Tensor) -> None:
        self.stepper = stepper
        self.states = states
        self.lengths = lengths
        self._runner: StepRunner | None = None

    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, KeyValueCache]:
        """Scores [B, V] after prompts [B, P] of `lengths` [B], and their cache of at most `capacity` positions."""
        capacity = min(capacity, self.stepper.decoder.config.max_sequence_length)
        memory = self.stepper.remember(self.states, self.lengths)
        return self.stepper.prefill(tokens, lengths, memory, capacity)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Scores [B, V] after one token [B] more of each row in use."""
        static = self.stepper.static
        if static or (static is None and tokens.is_cuda):
            if self._runner is None:
                limit = self.stepper.decoder.config.max_sequence_length
                self._runner = self.stepper.pool().take(self.stepper.run, cache, limit)
            scores = self._runner.step(tokens, cache)
        else:
            window = min(cache.longest + 1, cache.capacity)
            scores = self.stepper.run(tokens, cache, cache.rows, window)
        cache.longest = min(cache.longest + 1, cache.capacity)
        return scores

    def release(self, cache: KeyValueCache) -> None:
        """Give the static buffers, if any, to later calls."""
        if self._runner is not None:
            self._runner.pool.give_back(self._runner)
            self._runner = None
