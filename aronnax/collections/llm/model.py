"""`LanguageModel`: a causal language model of transformers that one chats with.

model = aronnax.load("Qwen/Qwen3-0.6B")
model.generate("Who was captain of the Nautilus?").text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.chat.tokenizer import AUDIO_TOKEN, ChatTokenizer
from aronnax.collections.llm.chat_model import Adapter, ChatModel
from aronnax.collections.llm.lora.attaching import adapter_names, attach
from aronnax.collections.llm.lora.config import DEFAULT, LoRA
from aronnax.core.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.llm.chat.messages import Message
    from aronnax.collections.llm.replying import Prompt


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


class LanguageModel(ChatModel):
    """A causal language model with its tokenizer; it reads text and has no ears."""

    model_type = "causal_lm"
    Config = LanguageModelConfig
    config: LanguageModelConfig

    def __init__(
        self,
        config: LanguageModelConfig,
        tokenizer: ChatTokenizer | None = None,
        llm: Backbone | None = None,
    ) -> None:
        """A model with fresh weights; `llm`, where there is one, is taken as it is, the adapters it lacks put in."""
        super().__init__(config, tokenizer, llm)
        if config.lora is not None and DEFAULT not in adapter_names(self.llm):
            attach(self.llm, config.lora)

    def prompt(self, messages: Sequence[Message], sample_rate: int | None = None) -> Prompt:
        """A conversation as ids; OptionError for a recording, or where no room is left to answer."""
        from aronnax.collections.llm.chat.room import check_room
        from aronnax.collections.llm.replying import Prompt

        for turn, message in enumerate(messages, start=1):
            if message.audios:
                raise OptionError(
                    f"turn {turn} ({message.role}) holds a recording, and this model has no ears: take a speech "
                    "language model such as digits-salm, or write the text"
                )
        ids = self.text.render(messages).ids
        check_room(self.text, messages, len(ids), self.context)
        return Prompt(ids, [], len(ids))

    def bind_prompts(self, prompts: Sequence[Prompt], adapter: Adapter = None) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, padded on the right, and how many positions each takes, int64 [B]."""
        lengths = torch.tensor([prompt.positions for prompt in prompts], device=self.device)
        ids = torch.full((len(prompts), int(lengths.max())), self.text.pad_id, device=self.device)
        for row, prompt in zip(ids, prompts):
            row[: len(prompt.ids)] = torch.tensor(prompt.ids, device=self.device)
        return self.llm.bind(self.llm.embed(ids), lengths, adapter=adapter), lengths
