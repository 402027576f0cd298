"""What every language model with ears has: perception, a language model, conversations in and replies out.

Shapes: B rows, U positions of the language model, D its width, A recordings, S samples, T frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.backbone.loading import check_vocabulary
from aronnax.collections.llm.chat.tokenizer import AUDIO, AUDIO_TOKEN, ChatTokenizer
from aronnax.collections.llm.lora.attaching import adapted_name, attach
from aronnax.collections.llm.lora.config import LoRA
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.collections.speechlm.perception import Perception, PerceptionConfig
from aronnax.core.errors import ConfigError, OptionError
from aronnax.core.model import Model
from aronnax.core.references import Reference

if TYPE_CHECKING:
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.common.results import Transcript
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.llm.answering import Piece
    from aronnax.collections.speechlm.conversation.batch import ConversationBatch

L = TypeVar("L", bound="SpeechLM")
Adapter = str | bool | None

_ENDLESS = 2**30
_ROWS = 16
"""Recordings, or pieces of them, that are heard at once in inference."""


@dataclass(frozen=True)
class SpeechLMConfig:
    """A language model and its ears."""

    backbone: BackboneConfig
    """The language model."""
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    """The ears: front end, encoder, adapter."""
    lora: LoRA | None = None
    """Low-rank layers inside the language model; None for none."""
    prompt_format: str = "chat_template"
    """How conversations are written down: a named format, or the tokenizer's own template."""
    audio_token: str = AUDIO_TOKEN
    """How the place of a recording is written there."""
    transcribe_prompt: str = "Transcribe the following:"
    """What `transcribe` says before the recording."""
    keyword_prompt: KeywordPrompt = field(default_factory=KeywordPrompt)
    """How `transcribe` lists key words before that."""
    encoder_chunk_seconds: float | None = None
    """Longer recordings are heard in pieces of so many seconds; None hears every recording at once."""
    context: int | None = None
    """Most positions of a conversation with its answer; None takes what the language model was made for."""
    references: dict[str, str] = field(default_factory=dict)
    """Prefix of names (`llm.`, `perception.encoder.`) -> the checkpoint that holds those weights as well."""

    def __post_init__(self) -> None:
        if self.encoder_chunk_seconds is not None and self.encoder_chunk_seconds <= 0:
            raise ConfigError(
                f"encoder_chunk_seconds is {self.encoder_chunk_seconds}; it must be above 0, or None"
            )
        if self.context is not None and self.context < 2:
            raise ConfigError(f"context is {self.context}; it must be at least 2, or None")


class SpeechLM(Model):
    """Base of the models that hear and answer; a subclass joins frames to the language model.

    It gives a `decoder_for` prompts, and the `training_hidden` states of a batch.
    """

    Config: ClassVar[type] = SpeechLMConfig
    hears: ClassVar[bool] = True
    """Whether messages may hold recordings."""

    def __init__(
        self, config: Any, tokenizer: ChatTokenizer | None = None, llm: Backbone | None = None
    ) -> None:
        """A model with fresh weights; `llm`, where one is at hand, is taken as it is, adapters put into it."""
        super().__init__(config)
        self.tokenizer = tokenizer
        self.llm = Backbone(config.backbone) if llm is None else llm
        if config.lora is not None:
            attach(self.llm, config.lora)
        self.perception = Perception(config.perception, self.llm.width)

    @classmethod
    def build(cls: type[L], config: Any, assets: Mapping[str, bytes]) -> L:
        """The model of `config` with the tokenizer held by `assets`."""
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
    def sample_rate(self) -> int:
        """Samples per second of the signals it hears."""
        return self.perception.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Samples from one frame among the words to the next."""
        return self.perception.samples_per_frame

    @property
    def slots(self) -> tuple[str, ...]:
        """What `transcribe` can be told, by name."""
        return ("prompt", "keywords")

    @property
    def context(self) -> int:
        """Most positions of a conversation with its answer."""
        return int(self.config.context or self.llm.max_length or _ENDLESS)

    @abstractmethod
    def decoder_for(
        self,
        ids: Sequence[Sequence[int]],
        signals: Sequence[Sequence[Tensor]],
        *,
        adapter: Adapter = None,
    ) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, and how many positions each takes, int64 [B].

        ids: of each row, AUDIO where a recording goes. signals: each row's recordings, [S] at `sample_rate`.
        """

    @abstractmethod
    def training_hidden(self, batch: ConversationBatch) -> tuple[Tensor, Tensor]:
        """States [B, U, D] behind the last norm, and the token each has to say next, int64 [B, U], -100 for none."""

    def positions(self, ids: Sequence[int], samples: Sequence[int]) -> int:
        """How many positions of the language model a conversation takes whose recordings have so many samples."""
        frames = (self.perception.frames(length) for one in samples for length in self._pieces(one))
        return len(ids) - sum(token == AUDIO for token in ids) + sum(frames)

    def hear(self, signal: Tensor, lengths: Tensor) -> list[Tensor]:
        """The frames [T, D] of recordings [A, S] of lengths [A] in samples, each without padding."""
        pieces = [self._pieces(length) for length in lengths.tolist()]
        if all(len(row) == 1 for row in pieces):
            frames, counts = self.perception(signal, lengths)
            return [row[:count] for row, count in zip(frames, counts.tolist())]
        cut = [part for row, sizes in zip(signal, pieces) for part in row[: sum(sizes)].split(sizes)]
        sizes = lengths.new_tensor([size for row in pieces for size in row])
        frames, counts = self.perception(pad_sequence(cut, batch_first=True), sizes)
        parts = iter([row[:count] for row, count in zip(frames, counts.tolist())])
        return [_joined([next(parts) for _ in row]) for row in pieces]

    def hear_all(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """The frames [T, D] of recordings [S] of any lengths, a few at a time."""
        heard: list[Tensor] = []
        for start in range(0, len(signals), _ROWS):
            some = [signal.to(self.device) for signal in signals[start : start + _ROWS]]
            lengths = [signal.shape[0] for signal in some]
            heard += self.hear(pad_sequence(some, batch_first=True), some[0].new_tensor(lengths).long())
        return heard

    def hear_silence(self) -> Tensor:
        """The frames [T, D] of a moment of silence."""
        silence = torch.zeros(1, 2 * self.samples_per_frame, device=self.device)
        return self.hear(silence, torch.tensor([silence.shape[1]], device=self.device))[0]

    def _pieces(self, samples: int) -> list[int]:
        """Samples of the pieces in which a recording is heard; one without features joins the one before."""
        if self.config.encoder_chunk_seconds is None:
            return [samples]
        shortest = 2 * self.config.perception.preprocessor.hop
        size = max(round(self.config.encoder_chunk_seconds * self.sample_rate), shortest)
        whole, rest = divmod(samples, size)
        if whole and rest < shortest:
            return [*[size] * (whole - 1), size + rest]
        return [*[size] * whole, rest]

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
        sample_rate: int | None = None,
    ) -> Reply | list[Reply] | list[list[Reply]]:
        """The `Reply` to one conversation, or a list of them; with `n_best` above 1 a list for each conversation.

        conversations: a text, a list of messages such as `{"role": "user", "content": ["Transcribe:",
            Audio("a.wav")]}`, or a list of conversations. Recordings of any rate and number of channels are resampled
            and mixed; `sample_rate` is the rate of bare arrays.
        temperature: 0 takes the best token; above 0 tokens are drawn, from the `top_k` best or the `top_p` likeliest,
            the same ones for the same `seed`, whatever the batch.
        stop: texts that end an answer and are left out of it.
        adapter: False answers with the language model as it was before adapters, for this call; a name takes one.

        A reply's `times` are seconds since its batch was begun, reading not counted: when each token was there.
        Raises OptionError for an option, a broken message, or a conversation too long for the language model;
        AudioError for a recording that is missing or cannot be read. May be called from many threads at once.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.chat.messages import conversations_from
        from aronnax.collections.speechlm.generating import checked_batch_size, reply_to

        self._check_mode()
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
        found, single = conversations_from(conversations)
        replies = reply_to(
            self,
            found,
            options,
            batch_size=checked_batch_size(batch_size),
            adapter=adapter,
            sample_rate=sample_rate,
        )
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
        sample_rate: int | None = None,
    ) -> Iterator[Piece]:
        """The reply to one conversation as it comes: pieces of text with token, time and log-probability.

        The last piece carries the whole `Reply`. Options as in `generate`.
        """
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.llm.chat.messages import messages_from
        from aronnax.collections.speechlm.generating import make_prompt, stream_reply

        self._check_mode()
        options = AnswerOptions.checked(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        return stream_reply(self, make_prompt(self, messages_from(messages), sample_rate), options, adapter)

    def transcribe(
        self,
        x: Any,
        *,
        prompt: str | None = None,
        keywords: str | Sequence[str] = (),
        max_new_tokens: int = 256,
        batch_size: int = 8,
        adapter: Adapter = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript | list[Transcript]:
        """The transcript of one recording, or a list of them; inputs as in every recogniser's `transcribe`.

        prompt: what is asked instead of the model's own `transcribe_prompt`. keywords: words that may be said, which
        the prompt then lists, as the model was taught in context. Words have no times. `transcribe_iter` goes on
        where a recording cannot be read.
        """
        from aronnax.collections.asr.transcribing import collect

        results = self.transcribe_iter(
            x,
            prompt=prompt,
            keywords=keywords,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            adapter=adapter,
            sample_rate=sample_rate,
            language=language,
            progress=progress,
        )
        return collect(x, results)

    def transcribe_iter(
        self,
        x: Any,
        *,
        prompt: str | None = None,
        keywords: str | Sequence[str] = (),
        max_new_tokens: int = 256,
        batch_size: int = 8,
        adapter: Adapter = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Generator[Result, None, None]:
        """Results as they finish, each with the index and name of its recording; options as in `transcribe`."""
        from aronnax.collections.llm.answering import AnswerOptions
        from aronnax.collections.speechlm.generating import checked_batch_size
        from aronnax.collections.speechlm.transcribing import Asked, transcribe_each

        self._check_mode()
        asked = Asked(
            prompt or self.config.transcribe_prompt,
            keywords,
            AnswerOptions.checked(max_new_tokens=max_new_tokens),
            checked_batch_size(batch_size),
            adapter,
            language,
            progress,
        )
        return transcribe_each(self, x, asked, sample_rate)

    def _check_mode(self) -> None:
        if self.training:
            raise OptionError(
                "the model is in training mode, where dropout is active: call model.eval() first"
            )


def among_others() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _reference(prefix: str, name: str, config: SpeechLMConfig) -> Reference:
    """Where a checkpoint holds the weights that stand below `prefix` here."""
    if prefix.startswith("perception."):
        return Reference(name, prefix.removeprefix("perception."))
    if prefix != "llm.":
        raise ConfigError(f"references.{prefix} is not known; it is llm., or begins with perception.")
    if config.lora is None:
        return Reference(name, prefix)
    with torch.device("meta"):
        adapted = Backbone(config.backbone)
        attach(adapted, config.lora)
    return Reference(name, prefix, partial(adapted_name, adapted))
