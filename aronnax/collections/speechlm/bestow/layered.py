"""The T5 style to compare with: cross-attention to the speech before every layer of the language model.

The language model's own modules are not touched: a call builds a second tree of modules over the same parameters, in
which each layer has a look at the speech in front of it.

Legend: `B` rows, `U` positions, `T` frames, `D` width, `H` heads, `K` width of a head, `G` groups of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.canary.decoder import MultiHeadAttention, TransformerDecoderConfig
from aronnax.collections.llm.backbone import Backbone, adapters
from aronnax.collections.llm.backbone.adapters import Adapter
from aronnax.collections.llm.backbone.hf_step import HfSteps, head_of
from aronnax.collections.speechlm.bestow.decoding import Prompts, TwoCaches
from aronnax.collections.speechlm.bestow.reader import sight_bias
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class LayeredConfig:
    """Cross-attention before every layer of the language model."""

    n_heads: int = 8
    """Heads; must divide the language model's width."""
    attention_dropout: float = 0.1
    """Dropout of attention weights."""
    layer_dropout: float = 0.1
    """Dropout of each attention's output."""
    zero_start: bool = True
    """Whether the last product of each begins with zeros, so that untrained ones leave the language model alone."""


@dataclass
class Heard:
    """The speech as the layers of one call see it."""

    keys: list[Tensor]
    """[G, H, T, K] a layer."""
    values: list[Tensor]
    bias: Tensor | None
    """Hides frames: [G, 1, 1 or U, T]."""
    hears: Tensor
    """bool [G, 1 or U, 1]; where anything is seen."""
    beam: int = 1

    def repeat(self, times: int) -> None:
        """Groups share what they hear."""
        self.beam *= times

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order."""
        index = torch.tensor(list(groups), dtype=torch.int64, device=self.hears.device)
        self.keys = [one.index_select(0, index) for one in self.keys]
        self.values = [one.index_select(0, index) for one in self.values]
        self.bias = None if self.bias is None else self.bias.index_select(0, index)
        self.hears = self.hears.index_select(0, index)

    def reorder(self, rows: Sequence[int]) -> None:
        """Rows stay in their group, which hears the same."""

    def snapshot(self) -> None:
        """Nothing changes from token to token."""

    def rollback(self, mark: None) -> None:
        """Nothing has changed."""


class Glance(nn.Module):
    """One layer's look at the speech: a normalisation and a cross-attention."""

    def __init__(self, config: LayeredConfig, width: int) -> None:
        """Fresh, for a language model of `width` D."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        shape = TransformerDecoderConfig(
            hidden_size=width,
            n_heads=config.n_heads,
            attention_dropout=config.attention_dropout,
            layer_dropout=config.layer_dropout,
        )
        self.attention = MultiHeadAttention(shape)
        if config.zero_start:
            nn.init.zeros_(self.attention.out_projection.weight)
            nn.init.zeros_(self.attention.out_projection.bias)

    def remember(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, K] of speech [B, T, D]."""
        part = self.attention
        keys = part.heads_of(part.key_net(speech)).transpose(1, 2)
        return keys, part.heads_of(part.value_net(speech)).transpose(1, 2)

    def forward(self, x: Tensor, heard: Heard, layer: int) -> Tensor:
        """[B, U, D] -> [B, U, D]; rows of a group look at one copy of the speech."""
        part = self.attention
        groups = len(x) // heard.beam
        query = part.heads_of(part.query_net(self.norm(x)).reshape(groups, -1, x.shape[2])).transpose(1, 2)
        dropout = part.attention_dropout if self.training else 0.0
        keys, values = heard.keys[layer], heard.values[layer]
        out = F.scaled_dot_product_attention(query, keys, values, heard.bias, dropout_p=dropout)
        seen = part.dropout(part.leave(out).reshape(x.shape))
        hears = heard.hears.repeat_interleave(heard.beam, 0)
        return torch.where(hears, x + seen, x)


class LayeredReader(nn.Module):
    """A `Glance` for each layer of the language model."""

    def __init__(self, config: LayeredConfig, llm: Backbone) -> None:
        """Fresh; ConfigError if the layers of `llm` are not in a plain list."""
        super().__init__()
        count = len(layers_of(_stack(llm.causal)))
        self.glances = nn.ModuleList([Glance(config, llm.width) for _ in range(count)])

    def hear(self, speech: Tensor, seen: Tensor) -> Heard:
        """Speech [B, T, D] of which positions see the first `seen` [B, U or 1] frames."""
        if not speech.shape[1]:
            speech = speech.new_zeros(speech.shape[0], 1, speech.shape[2])
        pairs = [cast(Glance, glance).remember(speech) for glance in self.glances]
        bias = sight_bias(seen, speech.shape[1], speech.dtype)
        return Heard([keys for keys, _ in pairs], [values for _, values in pairs], bias, seen[:, :, None] > 0)

    def listening(self, llm: Backbone, heard: Heard, adapter: Adapter = None) -> tuple[nn.Module, nn.Module]:
        """The language model that hears, and its stack of layers; both share all parameters with `llm`."""
        causal = copy(adapters.choose(llm.causal, adapter))
        stack = copy(_stack(causal))
        wrapped = [
            _Hearing(layer, partial(glance, heard=heard, layer=number))
            for number, (layer, glance) in enumerate(zip(layers_of(stack), self.glances))
        ]
        stack._modules = {**stack._modules, "layers": nn.ModuleList(wrapped)}
        causal._modules = {**causal._modules, cast(str, causal.base_model_prefix): stack}
        return causal, stack

    def forward(self, llm: Backbone, text: Tensor, speech: Tensor, seen: Tensor) -> Tensor:
        """Hidden states [B, U, D] after text [B, U, D] that sees the first `seen` [B, U] frames of speech."""
        _, stack = self.listening(llm, self.hear(speech, seen))
        hidden: Tensor = stack(inputs_embeds=text, use_cache=False).last_hidden_state
        return hidden


class LayeredDecoder:
    """A `Decoder` of prompts that look at speech before every layer; the ids the engine gives are ignored."""

    def __init__(
        self, reader: LayeredReader, llm: Backbone, prompts: Prompts, adapter: Adapter = None
    ) -> None:
        """Of prompts with their speech; `adapter` chooses among LoRA adapters, False for none."""
        self.reader, self.llm, self.prompts, self.adapter = reader, llm, prompts, adapter
        self._steps: HfSteps | None = None

    @torch.inference_mode()
    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, TwoCaches]:
        """Scores [B, V] after the prompts, and their cache."""
        prompts = self.prompts
        # The steps of transformers pad on the left: what a position sees moves with it.
        heard = self.reader.hear(prompts.speech, _to_left(prompts.seen, prompts.lengths))
        causal, stack = self.reader.listening(self.llm, heard, self.adapter)
        self._steps = HfSteps(causal, stack, head_of(causal))
        room = prompts.embeddings.shape[1] + capacity - tokens.shape[1]
        scores, cache = self._steps.prefill(prompts.embeddings, prompts.lengths, room, None)
        everything = prompts.speech_lengths[:, None]
        heard.bias = sight_bias(everything, heard.keys[0].shape[2], heard.keys[0].dtype)
        heard.hears = everything[:, :, None] > 0
        return scores, TwoCaches(heard, cache)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: TwoCaches) -> Tensor:
        """Scores [B, V] after one token [B] more of each row in use."""
        assert self._steps is not None, "prefill comes first"
        return self._steps.step(self.llm.embed(tokens), cache.llm)

    def release(self, cache: TwoCaches) -> None:
        """Nothing is kept for later calls."""


class _Hearing(nn.Module):
    """A layer of the language model with a look at the speech in front of it."""

    def __init__(self, layer: nn.Module, glance: Any) -> None:
        super().__init__()
        self.layer = layer
        self.glance = glance

    def forward(self, hidden: Tensor, *others: Any, **options: Any) -> Any:
        return self.layer(self.glance(hidden), *others, **options)

    def __getattr__(self, name: str) -> Any:
        # What kind of attention a layer has is asked of the layer.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def _stack(causal: nn.Module) -> nn.Module:
    return cast(nn.Module, getattr(causal, cast(str, causal.base_model_prefix)))


def layers_of(stack: nn.Module) -> nn.ModuleList:
    """The layers of a stack of transformers; ConfigError if they are not in a plain list."""
    layers = getattr(stack, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"layered: the layers of {type(stack).__name__} are not known, so nothing can be put before each;"
            " use the reader instead (leave `layered` out)"
        )
    return layers


def _to_left(seen: Tensor, lengths: Tensor) -> Tensor:
    """Rows [B, U] padded on the right, padded on the left instead, what is in the padding seeing nothing."""
    longest = seen.shape[1]
    places = torch.arange(longest, device=seen.device) - (longest - lengths[:, None])
    return torch.where(places >= 0, seen.gather(1, places.clamp(min=0)), 0)
