"""`LanguageModel`: a causal language model of transformers that one chats with.

model = aronnax.load("Qwen/Qwen3-0.6B")
model.generate("Who was captain of the Nautilus?").text
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.backbone.loading import check_vocabulary
from aronnax.collections.llm.chat.tokenizer import AUDIO_TOKEN, ChatTokenizer
from aronnax.collections.llm.lora.attaching import adapted_name, adapter_names, attach
from aronnax.collections.llm.lora.config import DEFAULT, LoRA
from aronnax.core.errors import ConfigError, OptionError
from aronnax.core.model import Model
from aronnax.core.references import Reference

if TYPE_CHECKING:
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.llm.answering import AnswerOptions, Piece
    from aronnax.collections.llm.chat.messages import Message

Adapter = str | bool | None
_ENDLESS = 2**30


@dataclass(frozen=True)
class LanguageModelConfig:
    """A language model and how one talks to it."""

    backbone: BackboneConfig
    """The language model."""
    lora: LoRA | None = None
    """Low-rank layers inside the language model; None for none."""
    prompt_format: str = "chat_template"
    """How conversations are written down: a named format, or the tokenizer's own template."""
    audio_token: str = AUDIO_TOKEN
    """How its tokenizer writes the place of a recording, for a model with ears that is built on this one."""
    context: int | None = None
    """Most positions of a conversation with its answer; None takes what the language model was made for."""
    references: dict[str, str] = field(default_factory=dict)
    """`llm.` -> the checkpoint that holds those weights as well, so that this one need not."""

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 2:
            raise ConfigError(f"context is {self.context}; it must be at least 2, or None")
        for prefix in self.references:
            if prefix != "llm.":
                raise ConfigError(f"references.{prefix} is not known; a language model has llm. alone")


class LanguageModel(Model):
    """A causal language model with its tokenizer; it reads text and has no ears."""

    model_type = "causal_lm"
    Config = LanguageModelConfig
    config: LanguageModelConfig
    hears: ClassVar[bool] = False
    """Whether messages may hold recordings."""

    def __init__(
        self,
        config: LanguageModelConfig,
        tokenizer: ChatTokenizer | None = None,
        llm: Backbone | None = None,
    ) -> None:
        """A model with fresh weights; `llm`, where there is one, is taken as it is, the adapters it lacks put in."""
        super().__init__(config)
        self.tokenizer = tokenizer
        self.llm = Backbone(config.backbone) if llm is None else llm
        if config.lora is not None and DEFAULT not in adapter_names(self.llm):
            attach(self.llm, config.lora)

    @classmethod
    def build(cls, config: LanguageModelConfig, assets: Mapping[str, bytes]) -> LanguageModel:
        """The model of `config` with the tokenizer held by `assets`; CheckpointError if they do not fit."""
        if not assets:
            return cls(config)
        tokenizer = ChatTokenizer.from_assets(
            assets, prompt_format=config.prompt_format, audio_token=config.audio_token
        )
        model = cls(config, tokenizer)
        check_vocabulary(dict(assets), model.llm.embedding, "the checkpoint")
        return model

    @classmethod
    def references(cls, config: LanguageModelConfig) -> Mapping[str, Reference]:
        """The checkpoint that `config.references` names, with its own names of those weights."""
        return {prefix: _reference(prefix, name, config) for prefix, name in config.references.items()}

    def assets(self) -> dict[str, bytes]:
        """The tokenizer's files, stored beside the weights."""
        return {} if self.tokenizer is None else self.tokenizer.assets()

    @property
    def text(self) -> ChatTokenizer:
        """The tokenizer; OptionError if the model has none."""
        if self.tokenizer is None:
            raise OptionError("the model has no tokenizer, so it can neither be asked nor answer")
        return self.tokenizer

    @property
    def context(self) -> int:
        """Most positions of a conversation with its answer."""
        return int(self.config.context or self.llm.max_length or _ENDLESS)

    def generate(
        self,
        conversations: Any,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        beam: int = 1,
        n_best: int = 1,
        batch_size: int = 8,
        adapter: Adapter = None,
    ) -> Reply | list[Reply] | list[list[Reply]]:
        """The `Reply` to one conversation, or a list of them; with `n_best` above 1 a list for each conversation.

        conversations: a text, a list of messages such as `{"role": "user", "content": "Hello"}`, or a list of
            conversations.
        temperature: 0 takes the best token; above 0 tokens are drawn, from the `top_k` best or the `top_p` likeliest,
            the same ones for the same `seed`, whatever the batch.
        stop: texts that end an answer and are left out of it.
        adapter: False answers without LoRA adapters, for this call; a name takes one.

        Raises OptionError for an option, a broken message, a recording, or a conversation that is too long. May be
        called from many threads at once.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.chat.messages import conversations_from

        options = AnswerOptions.checked(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            beam=beam,
            n_best=n_best,
        )
        self._check_mode()
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size={batch_size!r} must be a whole number of at least 1")
        found, single = conversations_from(conversations)
        prompts = [self._prompt(messages) for messages in found]
        replies = self._replies(prompts, options, batch_size, adapter)
        chosen = replies if n_best > 1 else [row[0] for row in replies]
        return chosen[0] if single else chosen

    def generate_stream(
        self,
        messages: Any,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        adapter: Adapter = None,
    ) -> Iterator[Piece]:
        """The reply to one conversation as it comes: pieces of text with token, time and log-probability.

        The last piece carries the whole `Reply`. Options as in `generate`.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.chat.messages import messages_from

        options = AnswerOptions.checked(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        self._check_mode()
        return self._stream(self._prompt(messages_from(messages)), options, adapter)

    def _check_mode(self) -> None:
        if self.training:
            raise OptionError(
                "the model is in training mode, where dropout is active: call model.eval() first"
            )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation; OptionError for a recording, or where no room is left to answer."""
        from aronnax.collections.llm.chat.room import check_room

        for turn, message in enumerate(messages, start=1):
            if message.audios:
                raise OptionError(
                    f"turn {turn} ({message.role}) holds a recording, and this model has no ears: take a speech "
                    "language model such as digits-salm, or write the text"
                )
        ids = self.text.render(messages).ids
        check_room(self.text, messages, len(ids), self.context)
        return ids

    @torch.inference_mode()
    def _replies(
        self, prompts: Sequence[Sequence[int]], options: AnswerOptions, batch_size: int, adapter: Adapter
    ) -> list[list[Reply]]:
        """The replies to each prompt; those of alike length are answered together."""
        from aronnax.collections.llm.answering import answer

        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        replies: list[list[Reply]] = [[] for _ in prompts]
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            began = time.perf_counter()
            embeddings, lengths = self._embedded([prompts[place] for place in batch])
            found = answer(
                self.llm.bind(embeddings, lengths, adapter=adapter),
                lengths,
                self.text,
                options,
                context=self.context,
                model=self.source,
                began=began,
            )
            for place, row in zip(batch, found):
                replies[place] = row
        return replies

    def _stream(self, prompt: Sequence[int], options: AnswerOptions, adapter: Adapter) -> Iterator[Piece]:
        from aronnax.collections.llm.answering import answer_stream

        began = time.perf_counter()
        with torch.inference_mode():
            embeddings, lengths = self._embedded([prompt])
            decoder = self.llm.bind(embeddings, lengths, adapter=adapter)
        yield from answer_stream(
            decoder, lengths, self.text, options, context=self.context, model=self.source, began=began
        )

    def _embedded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, U, D] of prompts, padded on the right to lengths [B]."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        ids = torch.full((len(prompts), int(lengths.max())), self.text.pad_id, device=self.device)
        for row, prompt in zip(ids, prompts):
            row[: len(prompt)] = torch.tensor(prompt, device=self.device)
        return self.llm.embed(ids), lengths


def _reference(prefix: str, name: str, config: LanguageModelConfig) -> Reference:
    if config.lora is None:
        return Reference(name, prefix)
    with torch.device("meta"):
        adapted = Backbone(config.backbone)
        attach(adapted, config.lora)
    return Reference(name, prefix, partial(adapted_name, adapted))
