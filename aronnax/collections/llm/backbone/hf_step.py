"""Decoding of any decoder-only model of transformers, by its own forward pass and its own caches.

Legend: `B` rows, `U` positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from aronnax.collections.llm.backbone.padding import to_left
from aronnax.collections.llm.backbone.steps import Steps
from aronnax.core.errors import OptionError

Change = Callable[[Tensor], Tensor]


def _changed(value: Any, change: Change) -> Any:
    """`value` with every tensor inside changed; containers are new ones."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    return value


@dataclass(frozen=True)
class HfMark:
    """A place to roll back to."""

    layers: tuple[dict[str, Any], ...]
    mask: Tensor
    lengths: Tensor
    moves: int


class HfCache:
    """A cache of transformers; rows are padded on the left, so that all of them write the same column."""

    def __init__(self, steps: HfSteps, states: Any, mask: Tensor, lengths: Tensor) -> None:
        self.steps = steps
        """What made this cache and goes on with it."""
        self.states = states
        self.mask = mask
        """True where a position is none of padding [B, positions so far]."""
        self.lengths = lengths
        """Positions of each row [B]."""
        self.rows = len(lengths)
        self.beam = 1
        self._moves = 0

    def repeat(self, times: int) -> None:
        """Make every row a group of `times` equal rows."""
        if times > 1:
            self.beam *= times
            self._take([row for row in range(self.rows) for _ in range(times)])

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order."""
        self._take([group * self.beam + k for group in groups for k in range(self.beam)])

    def reorder(self, rows: Sequence[int]) -> None:
        """Row rows[i] becomes row i."""
        self._take(rows)

    def _take(self, rows: Sequence[int]) -> None:
        self._moves += 1
        if list(rows) == list(range(self.rows)):
            return
        index, before = torch.tensor(rows, device=self.lengths.device), self.rows

        def taken(tensor: Tensor) -> Tensor:
            own = tensor.dim() > 1 and tensor.shape[0] == before
            return tensor.index_select(0, index) if own else tensor

        for layer in self.states.layers:
            vars(layer).update(_changed(vars(layer), taken))
        self.mask = self.mask.index_select(0, index)
        self.lengths = self.lengths.index_select(0, index)
        self.rows = len(rows)

    def snapshot(self) -> HfMark:
        """Where the rows stand."""
        layers = tuple(_kept(layer, vars(layer)) for layer in self.states.layers)
        return HfMark(layers, self.mask, self.lengths, self._moves)

    def rollback(self, mark: HfMark) -> None:
        """Go back to `mark`, exactly.

        Raises OptionError if rows were moved since.
        """
        if mark.moves != self._moves:
            raise OptionError(
                "the cache's rows were moved since the snapshot: roll back before selecting rows"
            )
        for layer, kept in zip(self.states.layers, mark.layers):
            vars(layer).update(_kept(layer, kept))
        self.mask, self.lengths = mark.mask, mark.lengths


def _kept(layer: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A layer's values for later: keys and values grow by new tensors, so those are kept; states are copied."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    grows = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
    kept: dict[str, Any] = _changed(values, (lambda tensor: tensor) if grows else torch.clone)
    return kept


class HfSteps(Steps):
    """Prefill and step by the forward pass of transformers."""

    def __init__(self, causal: nn.Module, base: nn.Module, logits: Callable[[Tensor], Tensor]) -> None:
        self.config: Any = causal.config
        self.base = base
        self.logits = logits
        # Models of Mamba alone have a name of their own for it.
        takes = signature(base.forward).parameters
        self.cache_name = "cache_params" if "cache_params" in takes else "past_key_values"

    @torch.inference_mode()
    def prefill(
        self, embeddings: Tensor, lengths: Tensor, capacity: int, chunk: int | None
    ) -> tuple[Tensor, HfCache]:
        """Scores [B, V] after prompts [B, U, D] padded on the right, and their cache, which grows as needed."""
        from transformers import DynamicCache

        states = DynamicCache(config=self.config)
        longest = embeddings.shape[1]
        embeddings = to_left(embeddings, lengths)
        mask = torch.arange(longest, device=lengths.device) >= longest - lengths[:, None]
        positions = (mask.cumsum(1) - 1).clamp_(min=0)
        if chunk is None or any(states.is_linear):
            # Recurrent states must see padding and text of a row in one piece: transformers does not mask single
            # positions.
            chunk = longest
        hidden = embeddings
        for start in range(0, longest, chunk):
            stop = min(start + chunk, longest)
            hidden = self._forward(
                embeddings[:, start:stop], mask[:, :stop], positions[:, start:stop], states
            )
        return self.logits(hidden[:, -1]), HfCache(self, states, mask, lengths.clone())

    @torch.inference_mode()
    def step(self, embeddings: Tensor, cache: HfCache) -> Tensor:
        """Scores [B, V] after one more position [B, D] of each row in use."""
        cache.mask = torch.cat([cache.mask, cache.mask.new_ones((cache.rows, 1))], dim=1)
        positions = cache.lengths[:, None]
        hidden = self._forward(embeddings[:, None], cache.mask, positions, cache.states)
        cache.lengths = cache.lengths + 1
        return self.logits(hidden[:, 0])

    def _forward(self, embeddings: Tensor, mask: Tensor, positions: Tensor, states: Any) -> Tensor:
        out = self.base(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            **{self.cache_name: states},
        )
        hidden: Tensor = out.last_hidden_state
        return hidden


class _Given(tuple[Tensor]):
    """An output of which only the hidden states are known."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Hidden(nn.Module):
    """Stands where the decoder stack stands and hands on what it is given."""

    def forward(self, *others: Any, inputs_embeds: Tensor, **options: Any) -> _Given:
        return _Given((inputs_embeds,))


def head_of(causal: nn.Module) -> Callable[[Tensor], Tensor]:
    """From hidden states [..., D] to logits [..., V] with all the model does there: scaling, capping, types.

    The model's own forward pass is run over hidden states, with nothing in place of its decoder stack.
    """
    prefix: str = causal.base_model_prefix  # type: ignore[assignment]
    shell: Any = copy(causal)
    shell._modules = {**causal._modules, prefix: _Hidden()}

    def logits(hidden: Tensor) -> Tensor:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        scores: Tensor = shell(inputs_embeds=rows, use_cache=False).logits
        return scores.reshape(*hidden.shape[:-1], -1)

    return logits
