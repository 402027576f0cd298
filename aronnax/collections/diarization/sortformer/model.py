"""Sortformer (arXiv 2409.06656): who speaks when, speakers in the order of their first words.

`B` batch, `S` samples, `T` frames of 80 ms, `F` mel bands, `D` width, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.encoder import Attention, FastConformer
from aronnax.collections.common.audio.augment import SpecAugment
from aronnax.collections.common.audio.features import LogMel
from aronnax.collections.common.nn.linear import Dropout, Linear
from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.diarization.sortformer.config import Profile, SortformerConfig
from aronnax.collections.diarization.sortformer.transformer import TransformerEncoder
from aronnax.core.model import Model

if TYPE_CHECKING:
    from aronnax.collections.common.results.diarization import Diarization
    from aronnax.collections.diarization.sortformer.streaming import Stream, StreamState

SCALE_GUARD = 1e-3
"""Added to the largest sample that a recording is divided by."""


class Activity(NamedTuple):
    """probabilities [B, T, N] that each speaker speaks (zeros in the padding), lengths int64 [B]."""

    probabilities: Tensor
    lengths: Tensor


class SortformerModel(Model):
    """FastConformer, Transformer and head; the first output is the first to speak, and so on.

    >>> from aronnax.collections.asr.encoder import FastConformerConfig
    >>> from aronnax.collections.diarization.sortformer.config import TransformerConfig
    >>> encoder = FastConformerConfig(feat_in=128, n_layers=1, d_model=16, n_heads=2)
    >>> transformer = TransformerConfig(n_layers=1, width=8, inner=16, n_heads=2)
    >>> model = SortformerModel(SortformerConfig(encoder=encoder, transformer=transformer)).eval()
    >>> model(torch.zeros(1, 16000), torch.tensor([16000])).probabilities.shape
    torch.Size([1, 13, 4])
    """

    model_type: ClassVar[str] = "sortformer"
    Config: ClassVar[type] = SortformerConfig

    def __init__(self, config: SortformerConfig) -> None:
        super().__init__(config)
        self.preprocessor = LogMel(config.preprocessor)
        self.spec_augmentation = SpecAugment(config.spec_augment)
        self.encoder = FastConformer(config.encoder)
        self.sortformer_modules = SpeakerHead(config)
        self.transformer_encoder = TransformerEncoder(config.transformer)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signal that the model takes."""
        return int(self.config.preprocessor.sample_rate)

    @property
    def samples_per_frame(self) -> int:
        """Samples from one frame to the next."""
        return int(self.config.preprocessor.hop * self.config.encoder.subsampling_factor)

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.samples_per_frame / self.sample_rate

    @property
    def max_speakers(self) -> int:
        """How many speakers the model tells apart."""
        return int(self.config.max_speakers)

    def forward(self, signal: Tensor, lengths: Tensor) -> Activity:
        """Signal [B, S] with lengths [B] in samples -> probabilities [B, T, N], all heard at once.

        A row does not depend on what it is batched with. SpecAugment is applied in training mode only.
        """
        features, lengths = self.features(signal, lengths)
        if self.training:
            features = self.spec_augmentation(features, lengths)
        frames, lengths = self.encoder.pre_encode(features, lengths)
        return Activity(self.activity(frames, lengths), lengths)

    def features(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Signal [B, S] -> features [B, T', F] no longer than the longest row, and their lengths [B].

        A model that was not made for streaming hears each row divided by its largest sample.
        """
        if not self.config.streaming and signal.shape[1]:
            signal = signal / _largest(signal, lengths)
        features, lengths = self.preprocessor(signal, lengths)
        longest = int(lengths.max()) if len(lengths) else 0
        return features[:, :longest], lengths.to(torch.int64)

    def activity(self, frames: Tensor, lengths: Tensor, *, right: int | None = None) -> Tensor:
        """Frames before the encoder's layers [B, T, D] with lengths [B] -> probabilities [B, T, N].

        `right` limits how many frames ahead attention looks, as streaming training does now and then.
        """
        if frames.shape[1] == 0:
            return frames.new_zeros(frames.shape[0], 0, self.max_speakers)
        attention = None if right is None else Attention("full", -1, right)
        states = self.encoder.encode_frames(frames, lengths, attention=attention).states
        states = self.transformer_encoder(self.sortformer_modules.project(states), lengths, right)
        probabilities = self.sortformer_modules(states)
        return probabilities.masked_fill(~valid_frames(lengths, frames.shape[1])[:, :, None], 0.0)

    def forward_streaming(self, signal: Tensor, lengths: Tensor, profile: Profile | None = None) -> Activity:
        """Signal [B, S] -> probabilities [B, T, N] chunk by chunk, as training a streaming model needs it.

        In training mode speakers are shuffled in the cache, and some calls limit the attention to the right
        (`limited_rate`, `limited_right`). `profile` is the configuration's own when None.
        """
        from aronnax.collections.diarization.sortformer.streaming import by_chunks

        return by_chunks(self, signal, lengths, profile or self.config.profile)

    def stream(
        self,
        latency: float | None = None,
        *,
        profile: Profile | None = None,
        state: StreamState | None = None,
    ) -> Stream:
        """A stream to push samples into, with the published latency of 0.32, 1.04, 10.0 or 30.4 seconds.

        `profile` gives the sizes one by one instead; with neither, the configuration's own profile holds. A `state`
        saved from another stream of the same profile goes on where that one stood.
        Raises OptionError for an unknown latency, or a model whose features need the whole recording.
        """
        from aronnax.collections.diarization.sortformer.streaming import Stream, choose_profile

        return Stream(self, choose_profile(self, latency, profile), state)

    def diarize(
        self,
        x: Any,
        *,
        latency: float | str | None = None,
        batch_size: int = 4,
        preset: str | None = None,
        onset: float | None = None,
        offset: float | None = None,
        pad_onset: float | None = None,
        pad_offset: float | None = None,
        min_duration_on: float | None = None,
        min_duration_off: float | None = None,
        sample_rate: int | None = None,
        channels: str = "mix",
        num_speakers: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Diarization | list[Diarization]:
        """Who speaks when in one recording, or a list of them for a list, a folder or a manifest.

        x: a path, bytes, an (array, rate) pair, an array or tensor with `sample_rate`, a Lhotse cut, a manifest
            (.json or .jsonl), a folder, or a list of these.
        latency: None hears short recordings at once and long ones as a stream in bounded memory; "offline" hears
            all at once; 0.32, 1.04, 10.0 or 30.4 streams with that profile. The choice stands in `notes`.
        batch_size: short recordings heard together; a row's result does not depend on it.
        preset: published post-processing, "dihard3" or "callhome", or one of `POSTPROCESSING` in
            postprocessing.py; the thresholds and durations (seconds) that follow replace its values one by one.
        channels: "mix" averages the channels; "apart" takes each for a recording of one speaker or more of its
            own, whose speakers get the channel into their names.
        num_speakers: how many to expect; the most active ones are kept, and what others are heard to say goes to
            the likeliest of these. More than the model has is an error.
        progress: called with the seconds of audio finished since the last call.

        May be called from many threads at once. Raises OptionError for an option, AudioError or ManifestError
        for the first input that cannot be read; `diarize_iter` in diarizing.py goes on instead.
        """
        from aronnax.collections.diarization.diarizing import Options, diarize_all

        options = Options.checked(
            self,
            latency=latency,
            batch_size=batch_size,
            preset=preset,
            replaced={
                "onset": onset,
                "offset": offset,
                "pad_onset": pad_onset,
                "pad_offset": pad_offset,
                "min_duration_on": min_duration_on,
                "min_duration_off": min_duration_off,
            },
            sample_rate=sample_rate,
            channels=channels,
            num_speakers=num_speakers,
            progress=progress,
        )
        return diarize_all(self, x, options)


class SpeakerHead(nn.Module):
    """The projection into the Transformer and the two layers behind it, under NeMo's names."""

    def __init__(self, config: SortformerConfig) -> None:
        super().__init__()
        width, speakers = config.transformer.width, config.max_speakers
        self.encoder_proj = None if config.encoder.d_model == width else Linear(config.encoder.d_model, width)
        self.first_hidden_to_hidden = Linear(width, width)
        self.single_hidden_to_spks = nn.Linear(width, speakers)
        # In every published checkpoint, used by none of them.
        self.hidden_to_spks = nn.Linear(2 * width, speakers).requires_grad_(False)
        self.dropout = Dropout(config.head_dropout)

    def project(self, states: Tensor) -> Tensor:
        """Encoder states [B, T, D] -> [B, T, D'], the Transformer's width."""
        return states if self.encoder_proj is None else self.encoder_proj(states)

    def forward(self, x: Tensor) -> Tensor:
        """Transformer states [B, T, D'] -> probabilities [B, T, N] in float32."""
        x = self.first_hidden_to_hidden(self.dropout(F.relu(x)))
        return self.single_hidden_to_spks(self.dropout(F.relu(x))).float().sigmoid()


def _largest(signal: Tensor, lengths: Tensor) -> Tensor:
    """The (signed) largest sample of each row [B, 1] and a guard, never 0."""
    valid = valid_frames(lengths, signal.shape[1])
    largest = signal.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, torch.zeros_like(largest)) + SCALE_GUARD
    return torch.where(largest.abs() < 1e-9, torch.full_like(largest, SCALE_GUARD), largest)
