"""Attention of a step and of a chunk of prompts over a `StepCache`; several query heads may share keys and values.

Legend: `B` rows, `U` positions of a chunk, `H` heads of queries, `G` heads of keys and values, `K` width of a head,
`W` window looked at, `N` positions of a chunk that are no padding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.llm.backbone.cache import StepCache
from aronnax.collections.llm.backbone.padding import Unpadded


class Back:
    """One step of the first rows, which look back at their own past."""

    def __init__(self, cache: StepCache, rows: int, window: int, spans: Iterable[int | None]) -> None:
        self.cache = cache
        self.rows = rows
        self.window = window
        self.lengths = cache.lengths[:rows]
        # Rows known to stand at one position are written and read by slices, and need no mask.
        self.at = cache.longest if cache.even else None
        if self.at is None:
            self.index = torch.arange(rows, device=cache.lengths.device)
            self.biases = {span: self._bias(span) for span in set(spans)}

    def _bias(self, span: int | None) -> Tensor:
        """What hides all but the last `span` positions of each row, this one among them: [B, 1, 1, W]."""
        places, lengths = torch.arange(self.window, device=self.lengths.device), self.lengths[:, None]
        hidden = places > lengths
        if span is not None:
            hidden = hidden | (places <= lengths - span)
        zeros = self.cache.keys[0].new_zeros((self.rows, self.window))
        return zeros.masked_fill_(hidden, -torch.inf)[:, None, None, :]

    def at_positions(self, table: Tensor) -> Tensor:
        """Rows of a table [C, K] for where each row stands: [B, 1, K], or [1, 1, K] for all."""
        if self.at is not None:
            return table[None, self.at : self.at + 1]
        return table.index_select(0, self.lengths)[:, None]

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, span: int | None, scale: float
    ) -> Tensor:
        """Queries [B, H, K] with their own keys and values [B, G, K] -> [B, H * K]."""
        keys, values, rows = self.cache.keys[layer], self.cache.values[layer], self.rows
        if self.at is None:
            self.cache.write(layer, rows, self.index, key, value)
            first, last, bias = 0, self.window, self.biases[span]
        else:
            first, last, bias = 0 if span is None else max(0, self.at + 1 - span), self.at + 1, None
            keys[:rows, self.at].copy_(key)
            values[:rows, self.at].copy_(value)
        # Heads that share keys are as many queries of one head: nothing is repeated.
        out = F.scaled_dot_product_attention(
            query.unflatten(1, (key.shape[1], -1)),
            keys[:rows, first:last].transpose(1, 2),
            values[:rows, first:last].transpose(1, 2),
            bias,
            scale=scale,
        )
        return out.flatten(1)


class Over:
    """A chunk of prompts that begin at position 0; its positions come packed."""

    def __init__(self, cache: StepCache, packed: Unpadded) -> None:
        self.cache = cache
        self.packed = packed
        self.start = packed.start
        self.stop = packed.start + packed.shape[1]
        self._masks: dict[int | None, Tensor | None] = {}

    def at_positions(self, table: Tensor) -> Tensor:
        """Rows of a table [C, K] for the chunk: [N, 1, K]."""
        return table.index_select(0, self.packed.positions)[:, None]

    def _mask(self, span: int | None) -> Tensor | None:
        """What may be seen [U, W]; None if it is all there is up to oneself."""
        if span not in self._masks:
            mask = None
            if self.start or (span is not None and self.stop > span):
                places = torch.arange(self.stop, device=self.cache.lengths.device)
                own = places[self.start :, None]
                mask = places <= own
                if span is not None:
                    mask = mask & (places > own - span)
            self._masks[span] = mask
        return self._masks[span]

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, span: int | None, scale: float
    ) -> Tensor:
        """Queries [N, H, K] with their own keys and values [N, G, K] -> [N, H * K]."""
        rows = self.packed.shape[0]
        keys = self.cache.keys[layer][:rows, : self.stop]
        values = self.cache.values[layer][:rows, : self.stop]
        keys[:, self.start :] = self.packed.unpack(key)
        values[:, self.start :] = self.packed.unpack(value)
        mask = self._mask(span)
        out = F.scaled_dot_product_attention(
            self.packed.unpack(query).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return self.packed.pack(out.transpose(1, 2)).flatten(1)
