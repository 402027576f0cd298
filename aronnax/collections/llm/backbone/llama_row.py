"""The step of the Llama family for a single row on a CPU, where the code of many small operations is what costs.

Between two products the processor has forgotten the code of everything else, for a weight has passed through its
cache. So a layer is as few operations as it can be: a norm is a number that its product is multiplied by, its weights
lie in the product's, sums with what went before are the products' own, and outputs and their parts stay in place.

Legend: `D` width, `H` heads of queries, `G` heads of keys and values, `K` width of a head, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.llm.backbone import screening
from aronnax.collections.llm.backbone.cache import StepCache
from aronnax.collections.llm.backbone.products import Part, RowProduct
from aronnax.collections.llm.backbone.screening import Screen


@dataclass(frozen=True)
class RowLayer:
    """A layer whose products hold the weights of its norms."""

    qkv: RowProduct
    heads_norm: Tensor | None
    """Weights [H + G, K] of the norms of queries and keys."""
    out: RowProduct
    gate_up: RowProduct
    down: RowProduct
    rotary: bool
    span: int | None
    """Positions seen, the own one among them; None for all."""


class _Heads:
    """Queries and keys in a buffer [H + G, K], and their parts."""

    def __init__(self, both: Tensor, heads: int) -> None:
        self.both = both
        self.query = both[:heads].view(1, len(both) - heads, -1, both.shape[1])
        self.key = both[heads:]
        self.first, self.second = both.chunk(2, dim=1)


class Desk:
    """What a call's steps are computed in; one step at a time."""

    def __init__(self, like: Tensor, heads: int, shared: int, width: int, inner: int) -> None:
        self.qkv = like.new_empty((1, (heads + 2 * shared) * width))
        every = self.qkv.view(-1, width)
        self.plain = _Heads(every[: heads + shared], heads)
        self.turned = _Heads(torch.empty_like(self.plain.both), heads)
        self.value = every[heads + shared :]
        self.gate_up = like.new_empty((1, 2 * inner))
        self.gate, self.up = self.gate_up.chunk(2, dim=1)


class RowSteps:
    """One position more of a single row."""

    def __init__(
        self,
        layers: Sequence[RowLayer],
        head: Part,
        norm: Tensor,
        heads: tuple[int, int, int],
        eps: float,
        scale: float,
        act: Callable[[Tensor], Tensor],
    ) -> None:
        """`norm` are weights [D] that come before the head; `heads` are `H`, `G` and `K`."""
        self.layers = layers
        self.head = head
        self.norm = norm
        self.heads = heads
        self.eps = eps
        self.scale = scale
        self.act = act

    @cached_property
    def _scores(self) -> RowProduct:
        return RowProduct([self.head], self.norm)

    @cached_property
    def _screen(self) -> Screen | None:
        plain = self.head.bias is None and not self.head.low
        return Screen(self.head.weight) if plain and screening.suits(self.head.weight) else None

    def step(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """Scores [1, V] after one more position [1, D]."""
        x = self._through(embeddings, cache)
        return self._scores(x, self._strength(x))

    def best(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """The token [1] with the highest of these scores."""
        if self._screen is None:
            return self.step(embeddings, cache).max(dim=-1).indices
        # What a norm multiplies by is above 0, and alike for all tokens.
        return self._screen.best(self._through(embeddings, cache)[0] * self.norm)

    def _through(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """[1, D] through all layers."""
        if cache.desk is None:
            inner = self.layers[0].gate_up.width // 2
            cache.desk = Desk(embeddings, *self.heads, inner)
        desk: Desk = cache.desk
        at = int(cache.lengths[0])
        assert cache.tables is not None
        cos, sin = cache.tables.select(1, at).unbind(0)
        turn = (cos, *sin.chunk(2))
        x = embeddings.clone()
        for number, layer in enumerate(self.layers):
            layer.qkv.into(desk.qkv, x, self._strength(x))
            heads = self._heads(layer, desk, turn)
            seen = self._attend(number, layer.span, at, heads, desk.value, cache)
            layer.out.add_to(x, seen)
            layer.gate_up.into(desk.gate_up, x, self._strength(x))
            layer.down.add_to(x, self.act(desk.gate).mul_(desk.up))
        cache.advance(1)
        cache.longest = min(cache.longest + 1, cache.capacity)
        return x

    def _strength(self, x: Tensor) -> float:
        """What a norm multiplies x by, its weights aside."""
        row = x.view(-1)
        return 1.0 / math.sqrt(float(torch.dot(row, row)) / len(row) + self.eps)

    def _heads(self, layer: RowLayer, desk: Desk, turn: tuple[Tensor, ...]) -> _Heads:
        """Queries and keys, normalised and turned."""
        plain, turned = desk.plain, desk.turned
        if layer.heads_norm is not None:
            normed = F.rms_norm(plain.both, plain.both.shape[-1:], None, self.eps)
            torch.mul(normed, layer.heads_norm, out=plain.both)
        if not layer.rotary:
            return plain
        cos, first, second = turn
        torch.mul(plain.both, cos, out=turned.both)
        turned.first.addcmul_(plain.second, first)
        turned.second.addcmul_(plain.first, second)
        return turned

    def _attend(
        self, number: int, span: int | None, at: int, heads: _Heads, value: Tensor, cache: StepCache
    ) -> Tensor:
        """What the queries find [1, H * K] among the keys and values so far and the row's own."""
        keys, values = cache.keys[number].narrow(0, 0, 1), cache.values[number].narrow(0, 0, 1)
        keys.select(1, at).copy_(heads.key)
        values.select(1, at).copy_(value)
        first = 0 if span is None else max(0, at + 1 - span)
        found = F.scaled_dot_product_attention(
            heads.query,
            keys.narrow(1, first, at + 1 - first).transpose(1, 2),
            values.narrow(1, first, at + 1 - first).transpose(1, 2),
            scale=self.scale,
        )
        return found.reshape(1, -1)
