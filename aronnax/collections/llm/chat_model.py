"""What models that answer conversations share, with ears and without: tokenizer, references, `generate`.

Shapes: B rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from aronnax.collections.common.calls import at_least_one, check_mode
from aronnax.collections.llm.backbone import Backbone
from aronnax.collections.llm.backbone.loading import check_vocabulary
from aronnax.collections.llm.chat.tokenizer import ChatTokenizer
from aronnax.collections.llm.lora.attaching import adapted_name, attach
from aronnax.core.errors import AronnaxError, OptionError
from aronnax.core.model import Model
from aronnax.core.references import Reference

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.llm.answering import AnswerSettings, Piece
    from aronnax.collections.llm.chat.messages import Message
    from aronnax.collections.llm.replying import Answered, Prompt

C = TypeVar("C", bound="ChatModel")
Adapter = str | bool | None
_ENDLESS = 2**30


class ChatModel(Model):
    """A language model with its tokenizer; a subclass says what it makes of messages and what goes on from there.

    Its configuration has `backbone`, `lora`, `prompt_format`, `audio_token`, `context` and `references`.
    """

    hears: ClassVar[bool] = False
    """Whether messages may hold recordings."""
    ahead: ClassVar[int] = 64
    """Batches that are made ready at a time, so that each can be of conversations of alike length."""

    def __init__(
        self, config: Any, tokenizer: ChatTokenizer | None = None, llm: Backbone | None = None
    ) -> None:
        """A model with fresh weights; `llm`, where there is one, is taken as it is."""
        super().__init__(config)
        self.tokenizer = tokenizer
        self.llm = Backbone(config.backbone) if llm is None else llm

    @classmethod
    def build(cls: type[C], config: Any, assets: Mapping[str, bytes]) -> C:
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
    def references(cls, config: Any) -> Mapping[str, Reference]:
        """The checkpoints that `config.references` names, each with its own names of those weights."""
        return {prefix: cls._reference(prefix, name, config) for prefix, name in config.references.items()}

    @staticmethod
    def _reference(prefix: str, name: str, config: Any) -> Reference:
        """Where the checkpoint of that name holds the weights of the language model, which adapters rename here."""
        if config.lora is None:
            return Reference(name, prefix)
        with torch.device("meta"):
            adapted = Backbone(config.backbone)
            attach(adapted, config.lora)
        return Reference(name, prefix, partial(adapted_name, adapted))

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

    @abstractmethod
    def prompt(self, messages: Sequence[Message], sample_rate: int | None = None) -> Prompt:
        """A conversation as the model reads it; `sample_rate` is the rate of bare arrays.

        Raises OptionError for messages it cannot read and where no room is left to answer, AudioError for a recording
        that is missing or cannot be read; both say which turn it was.
        """

    @abstractmethod
    def bind_prompts(self, prompts: Sequence[Prompt], adapter: Adapter = None) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, and how many positions each takes, int64 [B]."""

    def generate(
        self,
        conversations: Any,
        *,
        batch_size: int = 8,
        adapter: Adapter = None,
        sample_rate: int | None = None,
        **options: Unpack[AnswerSettings],
    ) -> Reply | list[Reply] | list[list[Reply]]:
        """The `Reply` to one conversation, or a list of them; with `n_best` above 1 a list for each conversation.

        conversations: a text, a list of messages such as `{"role": "user", "content": ["Transcribe:",
            Audio("a.wav")]}`, or a list of conversations. Recordings of any rate and number of channels are resampled
            and mixed; `sample_rate` is the rate of bare arrays.
        max_new_tokens: 128 by default.
        temperature: 0, the default, takes the best token; above 0 tokens are drawn, from the `top_k` best or the
            `top_p` likeliest, the same ones for the same `seed`, whatever the batch.
        stop: texts that end an answer and are left out of it, with the blanks before them.
        beam: hypotheses kept; 1, the default, is greedy. n_best: answers to each conversation.
        log_probs: False leaves log-probabilities out of the reply. The tokens are the same; a single greedy row on a
            CPU may come by them without reading a large head whole (see `llm/backbone/screening.py`).
        adapter: False answers with the language model as it was before adapters, for this call; a name takes one.

        A reply's `times` are seconds since its batch was begun, reading not counted: when each token was there.
        Raises OptionError for an option, a broken message, or a conversation too long for the language model, or with
        a recording where the model has no ears; AudioError for a recording that is missing or cannot be read. May be
        called from many threads at once. `generate_iter` gives replies as they come, and goes on where this raises.
        """
        from aronnax.collections.llm.chat.messages import conversations_from
        from aronnax.collections.llm.replying import placed

        found, single = conversations_from(conversations)
        answered = self.generate_iter(
            found, batch_size=batch_size, adapter=adapter, sample_rate=sample_rate, **options
        )
        replies: list[list[Reply]] = [[] for _ in found]
        for one in answered:
            if one.error is not None:
                raise one.error if len(found) == 1 else placed(one.error, one.index)
            replies[one.index] = one.replies
        chosen = replies if options.get("n_best", 1) > 1 else [row[0] for row in replies]
        return chosen[0] if single else chosen

    def generate_iter(
        self,
        conversations: Iterable[Any],
        *,
        batch_size: int = 8,
        adapter: Adapter = None,
        sample_rate: int | None = None,
        **options: Unpack[AnswerSettings],
    ) -> Iterator[Answered]:
        """What becomes of each of many conversations, as soon as it is known: its replies, or why there are none.

        They may come without end: a few batches are read at a time, and `index` tells which one an answer is to. A
        broken message or recording is its own conversation's error alone. Options as in `generate`, checked at once.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.replying import answer_each

        checked = AnswerOptions.checked(**options)
        size = at_least_one("batch_size", batch_size)
        check_mode(self)
        return answer_each(
            self, _read(conversations), checked, batch_size=size, adapter=adapter, sample_rate=sample_rate
        )

    def generate_stream(
        self,
        messages: Any,
        *,
        adapter: Adapter = None,
        sample_rate: int | None = None,
        **options: Unpack[AnswerSettings],
    ) -> Iterator[Piece]:
        """The reply to one conversation as it comes: pieces of text with token, time and log-probability.

        The last piece carries the whole `Reply`. Options as in `generate`, but for `beam` and `n_best`.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.chat.messages import messages_from
        from aronnax.collections.llm.replying import stream_reply

        checked = AnswerOptions.checked(**options)
        check_mode(self)
        return stream_reply(self, self.prompt(messages_from(messages), sample_rate), checked, adapter)


def _read(conversations: Iterable[Any]) -> Iterator[Sequence[Message] | AronnaxError]:
    from aronnax.collections.llm.chat.messages import messages_from

    for given in conversations:
        try:
            yield messages_from(given)
        except AronnaxError as error:
            yield error
