"""The typed configuration of Sortformer (arXiv 2409.06656) and its streaming form (arXiv 2507.18446)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.core.errors import ConfigError

MAX_SPEAKERS = 8
"""Speakers a configuration may ask for."""


@dataclass(frozen=True)
class TransformerConfig:
    """The post-norm Transformer encoder behind the FastConformer; it has no position encoding of its own."""

    n_layers: int = 18
    """Depth."""
    width: int = 192
    """Width, a multiple of `n_heads`."""
    inner: int = 768
    """Inner width of the feed-forward modules."""
    n_heads: int = 8
    """Attention heads."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of the feed-forward modules."""
    dropout_att: float = 0.5
    """Dropout of the attention weights."""
    dropout: float = 0.5
    """Dropout of the output of an attention."""
    dropout_ff: float = 0.5
    """Dropout of the output of a feed-forward module."""

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.width % self.n_heads:
            raise ConfigError(f"transformer.width={self.width} must be a multiple of n_heads={self.n_heads}")


@dataclass(frozen=True)
class Profile:
    """How much a streaming step reads and remembers, in frames of the model (80 ms)."""

    chunk: int = 188
    """Frames that become final in a step."""
    right: int = 1
    """Frames looked at beyond them; the latency is `chunk + right` frames."""
    fifo: int = 0
    """Latest frames kept as they are."""
    update: int = 188
    """Frames that move from the queue to the speaker cache when the queue is full."""
    cache: int = 188
    """Frames of the speaker cache."""
    left: int = 1
    """Frames before the chunk that are encoded again with it."""

    def __post_init__(self) -> None:
        for name, least in (
            ("chunk", 1),
            ("right", 0),
            ("fifo", 0),
            ("update", 1),
            ("cache", 1),
            ("left", 0),
        ):
            if not least <= getattr(self, name) <= 10**6:
                raise ConfigError(
                    f"profile.{name}={getattr(self, name)} must be a number of at least {least}"
                )


@dataclass(frozen=True)
class SpeakerCacheConfig:
    """How the arrival-order speaker cache chooses the frames it keeps."""

    silence_slots: int = 3
    """Places for the mean silence behind each speaker's frames."""
    floor: float = 0.25
    """Probabilities (of speech and of its absence) count as at least this in the scores."""
    recent_boost: float = 0.05
    """Added to the scores of frames that are new in the cache."""
    silence_threshold: float = 0.2
    """A frame whose probabilities sum to less is silence."""
    strong_rate: float = 0.75
    """Share of a speaker's places whose best frames are sure to stay."""
    weak_rate: float = 1.5
    """Share of a speaker's places beyond which frames lose to those of other speakers."""
    alone_rate: float = 0.5
    """Share of a speaker's places from which on frames with overlap are left out."""
    noise: float = 0.0
    """Largest random number added to the scores in training."""


@dataclass(frozen=True)
class SortformerConfig:
    """Configuration of a Sortformer diarizer; the defaults are those of diar_streaming_sortformer_4spk-v2."""

    max_speakers: int = 4
    """Speakers the model tells apart, 1 to 8."""
    preprocessor: LogMelConfig = field(
        default_factory=lambda: LogMelConfig(n_mels=128, normalize="none", pad_to=16)
    )
    encoder: FastConformerConfig = field(default_factory=lambda: FastConformerConfig(feat_in=128))
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    head_dropout: float = 0.5
    """Dropout inside the head."""
    streaming: bool = True
    """Whether the model was made for streaming; if not, each recording is scaled by its largest sample."""
    asynchronous: bool = False
    """Whether the first compression of the cache uses the probabilities of when its frames left the queue
    (as for rows at different positions) or fresh ones."""
    profile: Profile = field(default_factory=Profile)
    """Streaming profile when no latency is asked for."""
    cache: SpeakerCacheConfig = field(default_factory=SpeakerCacheConfig)
    limited_rate: float = 0.5
    """Share of streaming training steps in which frames see only `limited_right` frames ahead."""
    limited_right: int = 7
    """See `limited_rate`."""
    sort_weight: float = 0.5
    """Weight of the sort loss; the two weights are scaled to sum to 1."""
    pil_weight: float = 0.5
    """Weight of the permutation-invariant loss."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_speakers <= MAX_SPEAKERS:
            raise ConfigError(f"max_speakers={self.max_speakers} is outside 1..{MAX_SPEAKERS}")
        if self.encoder.feat_in != self.preprocessor.n_mels:
            raise ConfigError(
                f"encoder.feat_in={self.encoder.feat_in} differs from preprocessor.n_mels={self.preprocessor.n_mels}"
            )
        if self.sort_weight < 0 or self.pil_weight < 0 or self.sort_weight + self.pil_weight == 0:
            raise ConfigError("sort_weight and pil_weight must not be negative, nor both 0")
        self.check_profile(self.profile)

    def check_profile(self, profile: Profile) -> None:
        """ConfigError if the speaker cache of a profile has no room for all speakers."""
        least = (1 + self.cache.silence_slots) * self.max_speakers
        if profile.cache < least:
            raise ConfigError(
                f"profile.cache={profile.cache} is too short for {self.max_speakers} speakers;"
                f" it must be at least {least}"
            )
