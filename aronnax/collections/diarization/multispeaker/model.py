"""A recogniser that writes who says what, supervised by a diarizer (Park et al. 2024, arXiv 2409.06656).

`B` batch, `S` samples, `T` encoder frames, `D` width of the states, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from aronnax.collections.asr.encoder import Attention, EncoderOutput
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.text import Tokenizer
from aronnax.collections.diarization.multispeaker.kernel import KernelConfig, SpeakerKernel, aligned
from aronnax.collections.diarization.multispeaker.serialisation import Level
from aronnax.collections.diarization.multispeaker.vocabulary import speaker_ids
from aronnax.collections.diarization.sortformer.config import MAX_SPEAKERS, SortformerConfig
from aronnax.collections.diarization.sortformer.model import Activity, SortformerModel
from aronnax.core.config import from_dict, nearest, to_dict
from aronnax.core.errors import ConfigError, OptionError
from aronnax.core.model import Model
from aronnax.core.registry import model_class

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from aronnax.collections.asr.transcribing import Result
    from aronnax.collections.common.results import Transcript
    from aronnax.collections.diarization.multispeaker.options import Settings

RECOGNISERS = ("ctc", "transducer", "hybrid", "canary")
"""Types of the recogniser inside."""


@dataclass(frozen=True)
class MultispeakerConfig:
    """Configuration of a recogniser with a diarizer."""

    recogniser: dict[str, Any]
    """`type` (ctc, transducer, hybrid or canary) and the options of that model."""
    diarizer: SortformerConfig | None = None
    """The diarizer, whose weights are part of the checkpoint; without one, a diarization is given with each call."""
    kernel: KernelConfig | None = field(default_factory=KernelConfig)
    """How the speakers are added to the encoder's states; None leaves the recogniser alone to tell them apart."""
    speakers: int = 4
    """Speakers that can be written, at most as many as the diarizer has."""
    speaker_token: str = "<|spltoken{}|>"
    """Token of the speaker `{}`, counted from 0; published canary2 tokenizers have `<|spk{}|>` as well."""
    level: Level = "word"
    """Whether every word or every utterance (segment) has a speaker token."""
    longest_seconds: float = 40.0
    """Longer recordings are diarized as a whole and recognised in pieces of at most this length."""

    def __post_init__(self) -> None:
        if not 1 <= self.speakers <= MAX_SPEAKERS:
            raise ConfigError(f"speakers={self.speakers} must lie between 1 and {MAX_SPEAKERS}")
        if self.speaker_token.count("{}") != 1:
            raise ConfigError(
                f"speaker_token={self.speaker_token!r} must hold one {{}} for the speaker's number"
            )
        if self.longest_seconds <= 0:
            raise ConfigError(f"longest_seconds={self.longest_seconds} must be above 0")
        if self.diarizer is not None and self.diarizer.max_speakers < self.speakers:
            raise ConfigError(
                f"the diarizer tells {self.diarizer.max_speakers} speakers apart, fewer than the"
                f" {self.speakers} of the speaker kernel: lower `speakers`, or take another diarizer"
            )

    @property
    def speaker_tokens(self) -> tuple[str, ...]:
        """The speaker tokens by number."""
        return tuple(self.speaker_token.format(number) for number in range(self.speakers))

    @property
    def recogniser_class(self) -> type[SpeechRecognizer]:
        """The class of the recogniser inside; ConfigError for a type that is not one."""
        kind = self.recogniser.get("type")
        if kind not in RECOGNISERS:
            raise ConfigError(f"recogniser.type is {kind!r}; {nearest(str(kind), RECOGNISERS)}")
        found: Any = model_class(str(kind))
        recogniser: type[SpeechRecognizer] = found
        return recogniser


class MultispeakerModel(Model):
    """Has a recogniser, a diarizer that does not learn, and the speaker kernel between them."""

    model_type: ClassVar[str] = "multispeaker"
    Config: ClassVar[type] = MultispeakerConfig

    def __init__(
        self,
        config: MultispeakerConfig,
        recogniser: SpeechRecognizer | None = None,
        diarizer: SortformerModel | None = None,
    ) -> None:
        super().__init__(config)
        self.recogniser = recogniser or _recogniser(config, {})
        if diarizer is None and config.diarizer is not None:
            diarizer = SortformerModel(config.diarizer)
        self.diarizer = diarizer
        if self.diarizer is not None:
            self.diarizer.requires_grad_(False)
            _check_frames(self.recogniser, self.diarizer)
        self.kernel = (
            None
            if config.kernel is None
            else SpeakerKernel(config.kernel, config.speakers, _width(self.recogniser, config.kernel))
        )

    @classmethod
    def build(cls, config: Any, assets: Mapping[str, bytes]) -> MultispeakerModel:
        """The model of `config` with the recogniser's tokenizer held by `assets`."""
        return cls(config, _recogniser(config, assets))

    @classmethod
    def of(
        cls, recogniser: SpeechRecognizer, diarizer: SortformerModel | None = None, **options: Any
    ) -> MultispeakerModel:
        """A model that has these two; `options` are the other fields of its configuration.

        The recogniser needs the speaker tokens in its vocabulary: see `with_speaker_tokens`. Raises ConfigError for
        two that do not go together.
        """
        section = {"type": recogniser.model_type, **to_dict(recogniser.config)}
        config = MultispeakerConfig(section, None if diarizer is None else diarizer.config, **options)
        speaker_ids(recogniser.tokenizer, config.speaker_tokens)
        return cls(config, recogniser, diarizer)

    def assets(self) -> dict[str, bytes]:
        """The files of the recogniser."""
        return self.recogniser.assets()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The recogniser's."""
        return self.recogniser.tokenizer

    @property
    def heads(self) -> tuple[str, ...]:
        """The recogniser's."""
        return self.recogniser.heads

    @property
    def slots(self) -> tuple[str, ...]:
        """What a prompt can say to the recogniser."""
        return self.recogniser.slots

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signal that the recogniser takes."""
        return self.recogniser.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Samples from one encoder frame to the next."""
        return self.recogniser.samples_per_frame

    @property
    def frame_seconds(self) -> float:
        """Seconds from one encoder frame to the next."""
        return self.samples_per_frame / self.sample_rate

    @property
    def max_speakers(self) -> int:
        """How many speakers can be written."""
        return int(self.config.speakers)

    @property
    def longest_seconds(self) -> float:
        """What is recognised at once, at most."""
        own = self.recogniser.longest_seconds
        longest = float(self.config.longest_seconds)
        return longest if own is None else min(own, longest)

    def diarize_signal(self, signal: Tensor, lengths: Tensor) -> Activity:
        """Signal [B, S] at the diarizer's rate, lengths [B] -> probabilities [B, T, N] of the model's speakers.

        Raises OptionError for a model without a diarizer.
        """
        if self.diarizer is None:
            raise OptionError("the model has no diarizer: give the diarization, or one with the checkpoint")
        found: Activity = self.diarizer(signal, lengths)
        return Activity(found.probabilities[:, :, : self.max_speakers], found.lengths)

    def encode(
        self,
        signal: Tensor,
        lengths: Tensor,
        activity: Tensor,
        activity_lengths: Tensor,
        attention: Attention | None = None,
    ) -> EncoderOutput:
        """The recogniser's states [B, T, D] with the speakers in them, as its decoder takes them.

        Signal [B, S] with lengths [B] in samples, probabilities [B, T', N] with lengths [B] in frames. Without a
        kernel these are the recogniser's own states. Raises OptionError for probabilities of another frame rate or
        another number of speakers.
        """
        kernel = self.kernel
        if kernel is None:
            return self.recogniser.encode(signal, lengths, attention)
        if activity.shape[2] != self.max_speakers:
            raise OptionError(
                f"the activity is that of {activity.shape[2]} speakers, and the model has {self.max_speakers}"
            )

        def supervised(states: Tensor, state_lengths: Tensor) -> Tensor:
            known = activity_lengths.to(state_lengths.device)
            return kernel(states, aligned(activity, known, states.shape[1], state_lengths))

        if kernel.config.before == "encoder":
            return self.recogniser.encode(signal, lengths, attention, enter=supervised)
        encoded = self.recogniser.encode(signal, lengths, attention)
        return encoded._replace(states=supervised(encoded.states, encoded.lengths))

    def transcribe(self, x: Any, **options: Unpack[Settings]) -> Transcript | list[Transcript]:
        """Who says what in one recording, or a list of them for a list, a folder or a manifest.

        Words have times and speakers: SPEAKER 1 is the first to arrive. x is what every recogniser takes.

        diarization: who speaks when (one for each recording), in place of what the model's diarizer finds.
        head, confidence, batch_size (8), sample_rate, language, progress: as in `SpeechRecognizer.transcribe`.
        chunk: "auto", or the seconds that are recognised at once where a recording is longer.
        vad: None; the diarizer knows where there is speech.
        The others, of a prompted recogniser (`source_lang`, `pnc`, `slots`, ...), are in `CanaryModel.transcribe`.

        Raises OptionError for an option, AudioError or ManifestError for the first input that cannot be read.
        """
        from aronnax.collections.asr.transcribing import collect

        return collect(x, self.transcribe_iter(x, **options))

    def transcribe_iter(self, x: Any, **options: Unpack[Settings]) -> Generator[Result, None, None]:
        """Results as they finish, each with the index and name of its recording; options as in `transcribe`."""
        from aronnax.collections.diarization.multispeaker.options import Options
        from aronnax.collections.diarization.multispeaker.transcribing import transcribe_each

        return transcribe_each(self, x, Options.checked(self, **options))


def _recogniser(config: MultispeakerConfig, assets: Mapping[str, bytes]) -> SpeechRecognizer:
    cls = config.recogniser_class
    options = {name: value for name, value in config.recogniser.items() if name != "type"}
    return cls.build(from_dict(cls.Config, options, "recogniser"), assets)


def _width(recogniser: SpeechRecognizer, kernel: KernelConfig) -> int:
    """Width of the frames that the recogniser encodes, or of the states that it decodes."""
    decoder = getattr(recogniser.config, "decoder", None)
    if kernel.before == "encoder" or decoder is None:
        return int(recogniser.config.encoder.d_model)
    return int(decoder.hidden_size)


def _check_frames(recogniser: SpeechRecognizer, diarizer: SortformerModel) -> None:
    own = recogniser.samples_per_frame / recogniser.sample_rate
    if abs(own - diarizer.frame_seconds) > 1e-9:
        raise ConfigError(
            f"the recogniser has a frame every {1000 * own:g} ms and the diarizer every"
            f" {1000 * diarizer.frame_seconds:g} ms; the speaker kernel needs equal ones"
        )
