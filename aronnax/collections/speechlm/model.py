"""What every language model with ears has: perception, a language model, conversations in and replies out.

Shapes: B rows, U positions of the language model, D its width, A recordings, S samples, T frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aronnax.collections.common.calls import at_least_one, check_mode
from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.chat.tokenizer import AUDIO, AUDIO_TOKEN, ChatTokenizer
from aronnax.collections.llm.chat_model import Adapter, ChatModel
from aronnax.collections.llm.lora.attaching import attach
from aronnax.collections.llm.lora.config import LoRA
from aronnax.collections.llm.packing import pack
from aronnax.collections.speechlm.conversation.keyword_prompt import KeywordPrompt
from aronnax.collections.speechlm.perception import Perception, PerceptionConfig
from aronnax.core.errors import ConfigError
from aronnax.core.references import Reference

if TYPE_CHECKING:
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.nn.generation import Decoder
    from aronnax.collections.common.results import Transcript
    from aronnax.collections.llm.chat.messages import Message
    from aronnax.collections.llm.replying import Prompt
    from aronnax.collections.speechlm.conversation.batch import ConversationBatch

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
    longest_seconds: float | None = None
    """The longest recording it learned from; of longer ones the reply notes that."""
    references: dict[str, str] = field(default_factory=dict)
    """Prefix of names (`llm.`, `perception.encoder.`) -> the checkpoint that holds those weights as well."""

    def __post_init__(self) -> None:
        if self.encoder_chunk_seconds is not None and self.encoder_chunk_seconds <= 0:
            raise ConfigError(
                f"encoder_chunk_seconds is {self.encoder_chunk_seconds}; it must be above 0, or None"
            )
        if self.longest_seconds is not None and self.longest_seconds <= 0:
            raise ConfigError(f"longest_seconds is {self.longest_seconds}; it must be above 0, or None")
        if self.context is not None and self.context < 2:
            raise ConfigError(f"context is {self.context}; it must be at least 2, or None")


class SpeechLM(ChatModel):
    """Base of the models that hear and answer; a subclass joins frames to the language model.

    It gives a `decoder_for` prompts, and the `training_hidden` states of a batch.
    """

    Config: ClassVar[type] = SpeechLMConfig
    hears: ClassVar[bool] = True
    ahead: ClassVar[int] = 4

    def __init__(
        self, config: Any, tokenizer: ChatTokenizer | None = None, llm: Backbone | None = None
    ) -> None:
        """A model with fresh weights; `llm`, where one is at hand, is taken as it is, adapters put into it."""
        super().__init__(config, tokenizer, llm)
        if config.lora is not None:
            attach(self.llm, config.lora)
        self.perception = Perception(config.perception, self.llm.width)

    @staticmethod
    def _reference(prefix: str, name: str, config: Any) -> Reference:
        if prefix.startswith("perception."):
            return Reference(name, prefix.removeprefix("perception."))
        if prefix != "llm.":
            raise ConfigError(f"references.{prefix} is not known; it is llm., or begins with perception.")
        return ChatModel._reference(prefix, name, config)

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

    def prompt(self, messages: Sequence[Message], sample_rate: int | None = None) -> Prompt:
        """A conversation as ids and the samples of its recordings; `sample_rate` is the rate of bare arrays.

        Raises OptionError or AudioError that says which turn was wrong, or too long.
        """
        from aronnax.collections.speechlm.generating import make_prompt

        return make_prompt(self, messages, sample_rate)

    def bind_prompts(self, prompts: Sequence[Prompt], adapter: Adapter = None) -> tuple[Decoder[Any], Tensor]:
        """What continues these prompts, and how many positions each takes, int64 [B]."""
        ids, signals = [prompt.ids for prompt in prompts], [prompt.signals for prompt in prompts]
        return self.decoder_for(ids, signals, adapter=adapter)

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
    def training_hidden(self, batch: ConversationBatch, room: int | None = None) -> tuple[Tensor, Tensor]:
        """States [B, U, D] behind the last norm, and the token each has to say next, int64 [B, U], -100 for none.

        With `room`, conversations share rows of so many positions, or as many as the longest takes, and these are
        [R, P, D] and [R, P]; each comes out as in a row of its own. OptionError where the model is `unpackable`.
        """

    @property
    def unpackable(self) -> str | None:
        """Why conversations cannot share rows of the language model; None where they can."""
        return self.llm.unpackable

    def understand(
        self, embeddings: Tensor, lengths: Tensor, labels: Tensor, room: int | None
    ) -> tuple[Tensor, Tensor]:
        """What `training_hidden` gives, of conversations [B, U, D] as the language model reads them."""
        if room is None:
            return self.llm(embeddings, lengths), labels
        packed = pack(embeddings, lengths, labels, room)
        shared = len(packed.labels) < len(labels)
        return self.llm(packed.embeddings, segments=packed.segments if shared else None), packed.labels

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
        the prompt then lists, as the model was taught in context. Words have no times, and where nobody speaks
        nothing is written; `notes` say so. `transcribe_iter` goes on where a recording cannot be read.
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
        from aronnax.collections.speechlm.transcribing import Asked, transcribe_each

        check_mode(self)
        asked = Asked(
            prompt or self.config.transcribe_prompt,
            keywords,
            AnswerOptions.checked(max_new_tokens=max_new_tokens, log_probs=False),
            at_least_one("batch_size", batch_size),
            adapter,
            language,
            progress,
        )
        return transcribe_each(self, x, asked, sample_rate)


def among_others() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
