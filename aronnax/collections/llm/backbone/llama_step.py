"""Fast decoding of Llama and its like: one attention and one gated feed-forward a layer, RMS norms, rotary positions.

Only the arithmetic is here; the weights are those of transformers' modules, with LoRA layers of peft among them.

Legend: `B` rows, `U` positions, `D` width, `H` heads of queries, `G` heads of keys and values, `K` width of a head,
`C` capacity, `V` vocabulary, `L` rows that end in a chunk. A leading `N` is `B` in a step, and all positions that are
no padding in a chunk of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.llm.backbone.attention import Back, Over
from aronnax.collections.llm.backbone.cache import CacheShape, StepCache
from aronnax.collections.llm.backbone.llama_row import RowLayer, RowSteps
from aronnax.collections.llm.backbone.norms import Norm
from aronnax.collections.llm.backbone.padding import Unpadded
from aronnax.collections.llm.backbone.products import MOST_COPIED, Product, RowProduct, part_of
from aronnax.collections.llm.backbone.steps import FixedSteps

FAMILY = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Architectures whose layers are these."""
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
# Frequencies that change with the length of the text are left to transformers.
_STEADY = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class _Layer:
    attention_norm: Norm
    qkv: Product
    heads_norm: Tensor | None
    """Weights [H + G, K] of the norms of queries and keys."""
    out: Product
    feed_norm: Norm
    gate_up: Product
    down: Product
    rotary: bool
    span: int | None
    """Positions seen, the own one among them; None for all."""


def supports(causal: Any) -> bool:
    """Whether the model's layers, as they are now, are those computed here."""
    config = causal.config
    if config.model_type not in FAMILY or getattr(causal.model.rotary_emb, "rope_type", None) not in _STEADY:
        return False
    if causal.model.rotary_emb.inv_freq.numel() * 2 != causal.model.layers[0].self_attn.head_dim:
        return False
    linears = [getattr(layer.self_attn, name) for layer in causal.model.layers for name in _LINEAR]
    linears += [getattr(layer.mlp, name) for layer in causal.model.layers for name in _GATED]
    return all(part_of(one) is not None for one in [*linears, causal.lm_head])


class LlamaSteps(FixedSteps):
    """Prefill and step of a model of the Llama family."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        model, config = causal.model, causal.config
        attention = model.layers[0].self_attn
        self.longest = config.max_position_embeddings
        self.heads = config.num_attention_heads
        self.shared = config.num_key_value_heads
        self.head_width = attention.head_dim
        self.scale = attention.scaling
        self.eps = config.rms_norm_eps
        self.act: Callable[[Tensor], Tensor] = F.silu
        if config.hidden_act not in ("silu", "swish"):
            self.act = model.layers[0].mlp.act_fn
        copied = sum(one.numel() * one.element_size() for one in causal.parameters()) <= MOST_COPIED
        self.layers = [
            _layer(layer, _span(config, number), self.heads, self.shared, self.eps, copied)
            for number, layer in enumerate(model.layers)
        ]
        self.norm = Norm(model.norm.weight, self.eps)
        self.head = _product([causal.lm_head], copied)
        self.frequencies = model.rotary_emb.inv_freq
        self.strength = model.rotary_emb.attention_scaling
        weight = self.norm.weight
        self.shape = CacheShape(len(self.layers), self.shared, self.head_width, weight)
        self._has_row_steps = copied and weight.device.type == "cpu" and weight.dtype == torch.float32
        self._row_steps: RowSteps | None = None

    def cache(self, rows: int, capacity: int, beam: int = 1) -> StepCache:
        """An empty cache."""
        return StepCache(self, self.shape, rows, capacity, self._tables(capacity), beam)

    def _tables(self, capacity: int) -> Tensor:
        """Cosines, and sines with the signs of a rotation of halves: [2, C, K]."""
        angles = torch.arange(capacity, device=self.frequencies.device)[:, None] * self.frequencies.float()
        cos, sin = angles.cos() * self.strength, angles.sin() * self.strength
        return torch.stack([torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)]).to(self.norm.weight.dtype)

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use."""
        row = self._for_a_row(cache)
        return super().step(embeddings, cache) if row is None else row.step(embeddings, cache)

    @torch.inference_mode()
    def best(self, embeddings: Tensor, cache: StepCache) -> Tensor:
        """The best tokens [B] after one more position [B, D] of each row in use."""
        row = self._for_a_row(cache)
        return super().best(embeddings, cache) if row is None else row.best(embeddings, cache)

    def _for_a_row(self, cache: StepCache) -> RowSteps | None:
        if cache.rows != 1 or not self._has_row_steps or torch.is_autocast_enabled("cpu"):
            return None
        if self._row_steps is None:
            self._row_steps = self._made_for_a_row()
        return self._row_steps

    def _made_for_a_row(self) -> RowSteps:
        layers = [
            RowLayer(
                RowProduct(layer.qkv.parts, layer.attention_norm.weight),
                layer.heads_norm,
                RowProduct(layer.out.parts),
                RowProduct(layer.gate_up.parts, layer.feed_norm.weight),
                RowProduct(layer.down.parts),
                layer.rotary,
                layer.span,
            )
            for layer in self.layers
        ]
        (head,), heads = self.head.parts, (self.heads, self.shared, self.head_width)
        return RowSteps(layers, head, self.norm.weight, heads, self.eps, self.scale, self.act)

    @torch.inference_mode()
    def run(self, embeddings: Tensor, cache: StepCache, rows: int, window: int) -> Tensor:
        """One step of the first `rows` rows, looking back at `window` positions at most: scores [B, V]."""
        back = Back(cache, rows, window, (layer.span for layer in self.layers))
        with torch.autocast(embeddings.device.type, enabled=False):
            hidden = self._through(embeddings, back, cache)
            cache.advance(rows)
            return self.scores(hidden)

    def chunk(self, embeddings: Tensor, packed: Unpadded, cache: StepCache) -> Tensor:
        """Hidden states [L, D] of the last positions in a chunk of prompts [B, U, D]."""
        return self._through(packed.pack(embeddings), Over(cache, packed), cache, packed.last)

    def scores(self, hidden: Tensor) -> Tensor:
        """[B, D] -> [B, V]."""
        # Whatever chooses a token reads whole rows.
        return self.head(self.norm(hidden)).contiguous()

    def _through(
        self, x: Tensor, attend: Back | Over, cache: StepCache, asked: Tensor | None = None
    ) -> Tensor:
        """[N, D] through all layers; after the last attention only the positions `asked` for go on: [L, D]."""
        assert cache.tables is not None
        cos, sin = attend.at_positions(cache.tables[0]), attend.at_positions(cache.tables[1])
        turned = self.heads + self.shared
        for number, layer in enumerate(self.layers):
            every = layer.qkv(layer.attention_norm(x)).contiguous().unflatten(-1, (-1, self.head_width))
            heads = every[..., :turned, :]
            if layer.heads_norm is not None:
                heads = F.rms_norm(heads, heads.shape[-1:], None, self.eps) * layer.heads_norm
            if layer.rotary:
                heads = torch.addcmul(heads * cos, heads.roll(self.head_width // 2, -1), sin)
            query, key = heads[..., : self.heads, :], heads[..., self.heads :, :]
            seen = attend(number, query, key, every[..., turned:, :], layer.span, self.scale)
            if asked is not None and number == len(self.layers) - 1:
                x, seen = x.index_select(0, asked), seen.index_select(0, asked)
            x = layer.out.added(seen, x)
            x = layer.down.added(layer.gate_up.gated(layer.feed_norm(x), self.act), x)
        return x


def _product(layers: list[Any], copied: bool) -> Product:
    parts = [part for part in map(part_of, layers) if part is not None]
    # Single rows have steps of their own, with weights of their own.
    return Product(parts, copied, row=False)


def _layer(layer: Any, span: int | None, heads: int, shared: int, eps: float, copied: bool) -> _Layer:
    attention, feed = layer.self_attn, layer.mlp
    heads_norm = None
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(shared, -1)
        heads_norm = torch.cat(norms)
    return _Layer(
        Norm(layer.input_layernorm.weight, eps),
        _product([attention.q_proj, attention.k_proj, attention.v_proj], copied),
        heads_norm,
        _product([attention.o_proj], copied),
        Norm(layer.post_attention_layernorm.weight, eps),
        _product([feed.gate_proj, feed.up_proj], copied),
        _product([feed.down_proj], copied),
        bool(getattr(attention, "use_rope", True)),
        span,
    )


def _span(config: Any, number: int) -> int | None:
    """How far a layer looks back."""
    kinds = getattr(config, "layer_types", None)
    slides = config.model_type == "mistral" if kinds is None else kinds[number] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None
