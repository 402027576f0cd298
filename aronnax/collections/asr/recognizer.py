"""What every speech recogniser has: a front end, an encoder, heads to decode with, and `transcribe`.

Shapes: B batch, S samples, T frames, F mel bands, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from aronnax.collections.asr.encoder import FastConformer
from aronnax.collections.common.audio.augment import SpecAugment
from aronnax.collections.common.audio.features import LogMel
from aronnax.collections.common.results import Transcript
from aronnax.collections.common.text import Tokenizer, tokenizer_from_assets
from aronnax.core.errors import OptionError
from aronnax.core.model import Model

if TYPE_CHECKING:
    from aronnax.collections.asr.encoder import Attention, EncoderOutput, Enter
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.asr.words import Clock
    from aronnax.collections.common.results import Word

R = TypeVar("R", bound="SpeechRecognizer")


class SpeechRecognizer(Model):
    """Base of the CTC, transducer and hybrid models; a subclass adds its heads and `decode`.

    The configuration holds at least `preprocessor`, `encoder` and `spec_augment`.
    """

    own_confidence: ClassVar[str] = "tsallis"
    """The measure of confidence that `transcribe` takes where none is asked for."""

    def __init__(self, config: Any, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.preprocessor = LogMel(config.preprocessor)
        self.spec_augmentation = SpecAugment(config.spec_augment)
        self.encoder = FastConformer(config.encoder)

    @classmethod
    def build(cls: type[R], config: Any, assets: Mapping[str, bytes]) -> R:
        """The model of `config` with the tokenizer held by `assets` (none when there are no assets)."""
        return cls(config, tokenizer_from_assets(assets) if assets else None)

    def renewed(self: R, config: Any, tokenizer: Tokenizer | None) -> R:
        """A model of the same kind with fresh weights, for another configuration and tokenizer of the same kind."""
        return type(self)(config, tokenizer)

    def assets(self) -> dict[str, bytes]:
        """The tokenizer's files, stored beside the weights."""
        return {} if self.tokenizer is None else self.tokenizer.assets()

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that `decode` accepts; the first is the default."""

    @abstractmethod
    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list[Hypothesis], Any]:
        """Encoder states [B, T, D] with lengths [B] -> one hypothesis a row, and the carry to go on from."""

    @property
    def slots(self) -> tuple[str, ...]:
        """What a prompt can say to this model, by name; nothing, for one that only listens."""
        return ()

    @property
    def longest_seconds(self) -> float | None:
        """Longer recordings are cut into pieces that are heard one by one; None where any length can be read."""
        return None

    def words(self, hypothesis: Hypothesis, clock: Clock) -> list[Word]:
        """The words of a hypothesis with their times."""
        from aronnax.collections.asr.words import words_of

        assert self.tokenizer is not None, "without a tokenizer there are no words"
        return words_of(hypothesis, self.tokenizer, clock)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signal that `encode` takes."""
        return int(self.config.preprocessor.sample_rate)

    @property
    def samples_per_frame(self) -> int:
        """Samples from one encoder frame to the next."""
        hop = round(self.config.preprocessor.window_stride * self.sample_rate)
        return int(hop * self.config.encoder.subsampling_factor)

    def encode(
        self,
        signal: Tensor,
        lengths: Tensor,
        attention: Attention | None = None,
        *,
        enter: Enter | None = None,
    ) -> EncoderOutput:
        """Signal [B, S] at `sample_rate` with lengths [B] in samples -> encoder states [B, T, D].

        SpecAugment is applied in training mode only. `attention` overrides the encoder's own for this call, and
        `enter` may change the frames that enter its first layer.
        """
        features, lengths = self.preprocessor(signal, lengths)
        if self.training:
            features = self.spec_augmentation(features, lengths)
        output: EncoderOutput = self.encoder(features, lengths, attention=attention, enter=enter)
        return output

    def choose_head(self, head: str | None) -> str:
        """`head` if this model has it, its first one for None; OptionError otherwise."""
        if head is None:
            return self.heads[0]
        if head not in self.heads:
            raise OptionError(f"head {head!r} is not one of this model's heads: {', '.join(self.heads)}")
        return head

    def transcribe(
        self,
        x: Any,
        *,
        batch_size: int = 8,
        head: str | None = None,
        timestamps: bool = True,
        confidence: str | None = "auto",
        chunk: str | float = "auto",
        vad: str | None = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript | list[Transcript]:
        """The transcript of one recording, or a list of them for a list, a folder, a manifest or a CutSet.

        x: a path, bytes or a binary file, an (array, rate) pair, an array or tensor with `sample_rate`, a
            Lhotse cut, a NeMo manifest (.json or .jsonl), a folder, a CutSet, or any iterable of these.
        batch_size: recordings encoded together; a row's result does not depend on it.
        head: one of `heads`, the first by default.
        timestamps: whether words and segments are made. confidence: "tsallis", "max_prob", None,
            or "auto" for the one that suits the model (`own_confidence`).
        chunk: how long recordings are read. "auto" chooses, "full" and "local" are the attention of one pass,
            a number is the length of chunks in seconds. What was chosen stands in the transcript's `notes`.
        vad: "energy" or "silero" decodes only where there is speech; times stay those of the recording.
        language: written to the result; these models find the language by themselves.
        progress: called with the seconds of audio finished since the last call.

        May be called from many threads at once. The model must be in eval mode, as `load` gives it.
        Raises OptionError for an option, AudioError or ManifestError for the first input that cannot be read;
        `transcribe_iter` goes on instead.
        """
        from aronnax.collections.asr.transcribing import collect

        results = self.transcribe_iter(
            x,
            batch_size=batch_size,
            head=head,
            timestamps=timestamps,
            confidence=confidence,
            chunk=chunk,
            vad=vad,
            sample_rate=sample_rate,
            language=language,
            progress=progress,
        )
        return collect(x, results)

    def transcribe_iter(
        self,
        x: Any,
        *,
        batch_size: int = 8,
        head: str | None = None,
        timestamps: bool = True,
        confidence: str | None = "auto",
        chunk: str | float = "auto",
        vad: str | None = None,
        sample_rate: int | None = None,
        language: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Generator[Result, None, None]:
        """Results as they finish, each with the index and name of its recording; options as in `transcribe`.

        A recording that cannot be read gives a result with `error` set, and the others go on. Inputs are read
        a little ahead in a thread, so that endless iterables are welcome.
        """
        from aronnax.collections.asr.transcribing import Options, transcribe_each

        options = Options.checked(
            self,
            batch_size=batch_size,
            head=head,
            timestamps=timestamps,
            confidence=confidence,
            chunk=chunk,
            vad=vad,
            sample_rate=sample_rate,
            language=language,
            progress=progress,
        )
        return transcribe_each(self, x, options)
