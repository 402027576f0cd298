"""BESTOW (arXiv 2406.19954): words query the speech in a small reader in front of the language model.

The language model's sequence is the text alone, however long the speech. The same weights answer recordings and live
speech: see `streaming.py`. Shapes: B rows, U positions, T frames, D width of the language model, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.common.calls import check_mode
from aronnax.collections.llm.backbone import Backbone
from aronnax.collections.llm.chat.messages import Message
from aronnax.collections.llm.chat.tokenizer import AUDIO, ChatTokenizer
from aronnax.collections.speechlm.bestow.decoding import Prompts, ReadingDecoder
from aronnax.collections.speechlm.bestow.layered import LayeredConfig, LayeredDecoder, LayeredReader
from aronnax.collections.speechlm.bestow.reader import Reader, ReaderConfig
from aronnax.collections.speechlm.bestow.sight import next_tokens, remembered, sight, text_of
from aronnax.collections.speechlm.bestow.waitk import EVERYTHING, WaitK
from aronnax.collections.speechlm.model import Adapter, SpeechLM, SpeechLMConfig
from aronnax.core.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.speechlm.bestow.streaming import Stream, StreamState
    from aronnax.collections.speechlm.conversation.batch import ConversationBatch


@dataclass(frozen=True)
class BESTOWConfig(SpeechLMConfig):
    """A language model, its ears, and the reader between them."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """The cross-attention in front of the language model."""
    layered: LayeredConfig | None = None
    """Cross-attention before every layer of the language model instead of the reader: the T5 style, to compare."""
    waits: tuple[int | None, ...] = (None,)
    """Blocks waited for in training, drawn for each row anew; None hears everything, as recordings are answered."""
    stride: int = 4
    """Frames of a block, in training and where a stream is given no policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.waits or any(k is not None and k < 1 for k in self.waits):
            raise ConfigError(
                f"waits is {list(self.waits)}: it must be numbers of blocks of at least 1, or null for all"
            )
        if self.stride < 1:
            raise ConfigError(f"stride is {self.stride}: a block has at least 1 frame")


class BESTOW(SpeechLM):
    """Text that looks at speech before the language model reads it.

    All recordings of a conversation, in order, are one memory; a position sees those whose places are before it. Text
    without recordings passes the reader bit for bit.
    """

    model_type: ClassVar[str] = "bestow"
    Config: ClassVar[type] = BESTOWConfig

    def __init__(
        self, config: BESTOWConfig, tokenizer: ChatTokenizer | None = None, llm: Backbone | None = None
    ) -> None:
        """A model with fresh weights; `llm`, where one is at hand, is taken as it is, adapters put into it."""
        super().__init__(config, tokenizer, llm)
        self.reader: Reader | LayeredReader
        if config.layered is None:
            self.reader = Reader(config.reader, self.llm.width)
        else:
            self.reader = LayeredReader(config.layered, self.llm)

    def positions(self, ids: Sequence[int], samples: Sequence[int]) -> int:
        """How many positions of the language model a conversation takes: its words, however long its recordings."""
        return len(ids) - sum(token == AUDIO for token in ids)

    def decoder_for(
        self,
        ids: Sequence[Sequence[int]],
        signals: Sequence[Sequence[Tensor]],
        *,
        adapter: Adapter = None,
    ) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, and how many positions each takes, int64 [B]."""
        frames = self.hear_all([signal for row in signals for signal in row])
        prompts = self.prompts(ids, frames, [len(row) for row in signals])
        made = ReadingDecoder if isinstance(self.reader, Reader) else LayeredDecoder
        return made(self.reader, self.llm, prompts, adapter), prompts.lengths  # type: ignore[arg-type]

    def prompts(
        self, ids: Sequence[Sequence[int]], frames: Sequence[Tensor], counts: Sequence[int]
    ) -> Prompts:
        """Prompts with the frames [T, D] of their recordings, `counts` of them a row; all that is there is seen."""
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        padded = lengths.new_zeros(len(ids), int(lengths.max()))
        for place, row in enumerate(ids):
            padded[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        text = text_of(padded, lengths)
        longest = int(text.lengths.max())
        words = self.llm.embed(text.ids[:, :longest]).to(self._reading_dtype)
        speech, ends = remembered(frames, counts, words)
        seen = sight(text, ends, self._waits_for(len(ids), (None,)), self.config.stride)
        return Prompts(words, text.lengths, speech, ends[:, -1], seen[:, :longest])

    def training_hidden(self, batch: ConversationBatch, room: int | None = None) -> tuple[Tensor, Tensor]:
        """States [B, U, D] behind the last norm, and the token each has to say next, int64 [B, U], -100 for none.

        In training mode each row waits for a number of blocks drawn from `waits`, else for all. With `room`,
        conversations share rows of the language model once their words have looked at speech: [R, P, D], [R, P].
        """
        text = text_of(batch.ids, batch.id_lengths, batch.learned, self.given)
        words = self.llm.embed(text.ids)
        frames = self.hear(batch.signal, batch.signal_lengths) if len(batch.signal) else []
        like = words.to(self._reading_dtype)
        speech, ends = remembered(frames, batch.audio_counts.tolist(), like)
        waits = self._waits_for(len(batch), self.config.waits if self.training else (None,))
        seen = sight(text, ends, waits, self.config.stride)
        if isinstance(self.reader, LayeredReader):
            if room is not None:
                raise OptionError(f"{self.unpackable}: give each conversation a row of its own")
            return self.reader(self.llm, words, speech.to(words.dtype), seen), next_tokens(text)
        read = self.reader(words.to(speech.dtype), speech, seen).to(words.dtype)
        return self.understand(read, text.lengths.clamp(min=1), next_tokens(text), room)

    @property
    def unpackable(self) -> str | None:
        """Why conversations cannot share rows of the language model; None where they can."""
        if isinstance(self.reader, LayeredReader):
            return "a reader before every layer (model.layered) looks at the speech of one conversation a row"
        return super().unpackable

    @cached_property
    def given(self) -> int:
        """Tokens that every answer begins with and that stand in the prompt already when an answer is asked for."""
        if self.tokenizer is None:
            return 0
        question = Message("user", ("x",))
        asked = self.text.render([question])
        taught = self.text.render([question, Message("assistant", ("x",))], answer=True)
        return sum(taught.learned[: len(asked.ids)])

    def _waits_for(self, rows: int, waits: Sequence[int | None]) -> Tensor:
        """Blocks that each row waits for [B], drawn where there is a choice."""
        known = torch.tensor([EVERYTHING if k is None else k for k in waits])
        drawn = torch.zeros(rows, dtype=torch.int64)
        if len(waits) > 1:
            drawn = torch.randint(len(waits), (rows,))
        return known[drawn].to(self.device)

    @property
    def _reading_dtype(self) -> torch.dtype:
        return next(self.reader.parameters()).dtype

    def stream(
        self,
        policy: WaitK | None = None,
        *,
        prompt: str | None = None,
        messages: Any = None,
        history: float | None = None,
        max_new_tokens: int = 256,
        adapter: Adapter = None,
        state: StreamState | None = None,
    ) -> Stream:
        """A live recording: push samples, receive tokens as `policy` lets them be written.

        policy: wait for k blocks, then write a token a block; by default everything is heard first, which answers as
            `generate` does. prompt: what is asked, the model's own `transcribe_prompt` by default.
        messages: a conversation instead, whose last recording is `Audio(LIVE)`, where the speech goes.
        history: seconds before a block that are encoded with it, frames staying as they were; None encodes all that
            was heard anew with each block, which suits an encoder that looks ahead.
        state: where another stream of the same question stood.
        Raises OptionError for options that do not fit, or a model of the layered kind.
        """
        from aronnax.collections.speechlm.bestow.streaming import open_stream

        check_mode(self)
        return open_stream(
            self,
            WaitK(None, self.config.stride) if policy is None else policy,
            prompt=prompt,
            messages=messages,
            history=history,
            max_new_tokens=max_new_tokens,
            adapter=adapter,
            state=state,
        )
