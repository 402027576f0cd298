"""BESTOW for the decoding engine: what the reader keeps and what the language model keeps, side by side.

Legend: `B` rows, `P` prompt positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aronnax.collections.common.nn.generation import Cache
from aronnax.collections.llm.backbone import Backbone
from aronnax.collections.llm.backbone.adapters import Adapter
from aronnax.collections.llm.backbone.bound import BoundDecoder
from aronnax.collections.speechlm.bestow.reader import Reader


@dataclass(frozen=True)
class Prompts:
    """A batch of conversations: words, and what they may see of the speech."""

    embeddings: Tensor
    """[B, P, D] of the words, padded on the right, in the type of the speech."""
    lengths: Tensor
    """[B]."""
    speech: Tensor
    """[B, T, D], padded."""
    speech_lengths: Tensor
    """[B]."""
    seen: Tensor
    """[B, P]; frames that each position sees."""


class TwoCaches:
    """What a way of listening keeps, and what the language model keeps; rows move in both."""

    def __init__(self, listening: Cache, llm: Cache) -> None:
        """Of the reader, and of the language model behind it; both hold the same rows."""
        self.listening: Any = listening
        self.llm: Any = llm

    def repeat(self, times: int) -> None:
        """Make every row a group of `times` equal rows."""
        self.listening.repeat(times)
        self.llm.repeat(times)

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order."""
        self.listening.select(groups)
        self.llm.select(groups)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row rows[i] becomes row i, inside its group."""
        self.listening.reorder(rows)
        self.llm.reorder(rows)

    def snapshot(self) -> tuple[Any, Any]:
        """Where the rows stand."""
        return self.listening.snapshot(), self.llm.snapshot()

    def rollback(self, mark: tuple[Any, Any]) -> None:
        """Go back to `mark`, exactly; OptionError if rows were moved since."""
        self.listening.rollback(mark[0])
        self.llm.rollback(mark[1])


class ReadingDecoder:
    """A `Decoder` of prompts that look at speech through the reader; the ids the engine gives are ignored."""

    def __init__(self, reader: Reader, llm: Backbone, prompts: Prompts, adapter: Adapter = None) -> None:
        """Of prompts with their speech; `adapter` chooses among LoRA adapters, False for none."""
        self.reader, self.llm, self.prompts, self.adapter = reader, llm, prompts, adapter
        self._bound: BoundDecoder | None = None

    @torch.inference_mode()
    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, TwoCaches]:
        """Scores [B, V] after the prompts, and a cache for `capacity` - P tokens more than they have."""
        prompts = self.prompts
        memory = self.reader.remember(prompts.speech, prompts.speech_lengths)
        room = prompts.embeddings.shape[1] + capacity - tokens.shape[1]
        read, kept = self.reader.prefill(prompts.embeddings, prompts.lengths, prompts.seen, memory, room)
        self._bound = self.llm.bind(read, prompts.lengths, adapter=self.adapter)
        scores, cache = self._bound.prefill(tokens, lengths, capacity=capacity)
        return scores, TwoCaches(kept, cache)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: TwoCaches) -> Tensor:
        """Scores [B, V] after one token [B] more of each row in use."""
        assert self._bound is not None, "prefill comes first"
        words = self.llm.embed(tokens)
        read = self.reader.step(words.to(self.prompts.speech.dtype), cache.listening)
        return self._bound.advance(read.to(words.dtype), cache.llm)

    def release(self, cache: TwoCaches) -> None:
        """Give the language model's fixed buffers, if any, to later calls."""
        if self._bound is not None:
            self._bound.release(cache.llm)
