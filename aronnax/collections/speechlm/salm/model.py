"""SALM: frames of recordings among the words of a prompt (Chen et al. 2023, arXiv:2310.09424).

Shapes: B rows, U positions, D width of the language model, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.speechlm.model import Adapter, SpeechLM, among_others
from aronnax.collections.speechlm.salm.splice import Spliced, next_tokens, splice

if TYPE_CHECKING:
    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.speechlm.conversation.batch import ConversationBatch


class SALM(SpeechLM):
    """Each recording's frames stand in its place of the conversation; nothing else tells them from words."""

    model_type: ClassVar[str] = "salm"

    def decoder_for(
        self,
        ids: Sequence[Sequence[int]],
        signals: Sequence[Sequence[Tensor]],
        *,
        adapter: Adapter = None,
    ) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, and how many positions each takes, int64 [B]."""
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        padded = lengths.new_zeros(len(ids), int(lengths.max()))
        for place, row in enumerate(ids):
            padded[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        frames = self.hear_all([signal for row in signals for signal in row])
        spliced = self.embed(padded, lengths, frames)
        return self.llm.bind(spliced.embeddings, spliced.lengths, adapter=adapter), spliced.lengths

    def training_hidden(self, batch: ConversationBatch, room: int | None = None) -> tuple[Tensor, Tensor]:
        """States [B, U, D] behind the last norm, and the token each has to say next, int64 [B, U], -100 for none.

        With `room`, conversations with the frames of their recordings share rows: [R, P, D], [R, P].
        """
        frames = self.hear(batch.signal, batch.signal_lengths) if len(batch.signal) else []
        spliced = self.embed(batch.ids, batch.id_lengths, frames, batch.learned)
        assert spliced.targets is not None, "made from what is learned"
        embeddings = spliced.embeddings
        if not frames and self.training and among_others():
            # The processes exchange the gradients of all weights, so that each must have used all of them.
            embeddings = embeddings + 0.0 * self.hear_silence().sum()
        return self.understand(embeddings, spliced.lengths, next_tokens(spliced.targets), room)

    def embed(
        self, ids: Tensor, id_lengths: Tensor, frames: Sequence[Tensor], learned: Tensor | None = None
    ) -> Spliced:
        """Conversations [B, U] with the frames of their recordings, as the language model reads them."""
        words = self.llm.embed(ids.clamp(min=0))
        return splice(ids, id_lengths, words, frames, learned=learned)
