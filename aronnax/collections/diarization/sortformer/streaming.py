"""Streaming Sortformer: fixed chunks of features, the memory of the speakers, and the samples in between.

What is computed is cut at places that depend on the profile alone, so the frames of a stream are the same numbers
however its samples arrive. `B` streams, `S` samples, `T` frames, `T'` feature frames, `F` bands, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aronnax.collections.common.calls import check_mode
from aronnax.collections.diarization.sortformer.config import Profile
from aronnax.collections.diarization.sortformer.speaker_cache import SpeakerMemory, packed, remember
from aronnax.core.errors import AudioError, CheckpointError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.diarization.sortformer.model import Activity, SortformerModel

PROFILES: Mapping[float, Profile] = {
    0.32: Profile(chunk=3, right=1, fifo=188, update=144),
    1.04: Profile(chunk=6, right=7, fifo=188, update=144),
    10.0: Profile(chunk=124, right=1, fifo=124, update=124),
    30.4: Profile(chunk=340, right=40, fifo=40, update=300),
}
"""The published profiles by their latency in seconds: chunk and right context together."""


def choose_profile(
    model: SortformerModel, latency: float | None = None, profile: Profile | None = None
) -> Profile:
    """The profile of a latency, or the one given, or the model's own; OptionError if the model cannot stream."""
    if model.config.preprocessor.normalize != "none":
        raise OptionError(
            "this model normalises its features over the whole recording, so it cannot be streamed;"
            " use diarize(..., latency='offline') or a streaming model such as diar_streaming_sortformer_4spk-v2"
        )
    if latency is not None and profile is not None:
        raise OptionError("give a latency or a profile, not both")
    if latency is not None:
        if isinstance(latency, bool) or not isinstance(latency, (int, float)) or latency not in PROFILES:
            known = ", ".join(map(str, PROFILES))
            raise OptionError(f"latency={latency!r} is not one of {known} seconds; other sizes: profile=")
        profile = PROFILES[latency]
    profile = profile or model.config.profile
    model.config.check_profile(profile)
    return profile


def new_memory(model: SortformerModel, profile: Profile, batch: int = 1) -> SpeakerMemory:
    """The memory of `batch` streams that have heard nothing."""
    width = model.config.encoder.d_model
    return SpeakerMemory.empty(batch, profile, width, model.max_speakers, model.device)


def step(
    model: SortformerModel,
    memory: SpeakerMemory,
    features: Tensor,
    lengths: Tensor,
    left: Tensor,
    *,
    profile: Profile,
    right: int | None = None,
) -> tuple[Tensor, Tensor, SpeakerMemory]:
    """One step of a batch of streams, which need not stand at the same position.

    features [B, T', F] of left context, chunk and right context, lengths [B] of them (0: the stream rests);
    left [B] in frames of the model. Returns the chunk's probabilities [B, T, N], how many of them are valid [B],
    and the memory.
    """
    frames, framed = model.encoder.pre_encode(features, lengths)
    new = (framed - left).clamp(0, profile.chunk)
    before = [memory.cache_lengths, memory.fifo_lengths]
    total = before[0] + before[1] + framed
    width = int(total.max())
    together = packed([memory.cache, memory.fifo, frames], [*before, framed], width)
    probabilities = model.activity(together, total, right=right)
    said, memory = remember(
        memory,
        frames,
        new,
        left,
        probabilities,
        profile=profile,
        config=model.config.cache,
        asynchronous=model.config.asynchronous,
        training=model.training,
    )
    return said, new, memory


def by_chunks(model: SortformerModel, signal: Tensor, lengths: Tensor, profile: Profile) -> Activity:
    """Signal [B, S] heard chunk after chunk; see `SortformerModel.forward_streaming`."""
    from aronnax.collections.diarization.sortformer.model import Activity

    model.config.check_profile(profile)
    features, lengths = model.features(signal, lengths)
    if model.training:
        features = model.spec_augmentation(features, lengths)
    right = None
    if model.training and float(torch.rand(())) < model.config.limited_rate:
        right = model.config.limited_right
    factor = model.config.encoder.subsampling_factor
    memory = new_memory(model, profile, len(features))
    pieces = [features.new_zeros(len(features), 0, model.max_speakers)]
    for start in range(0, features.shape[1], profile.chunk * factor):
        context = min(start, profile.left * factor)
        first, last = start - context, start + (profile.chunk + profile.right) * factor
        piece = features[:, first:last]
        # Nothing is left of a row that has ended, not even its context.
        held = torch.where(lengths > start, (lengths - first).clamp(0, piece.shape[1]), 0)
        left = torch.full_like(lengths, context // factor)
        said, _, memory = step(model, memory, piece, held, left, profile=profile, right=right)
        pieces.append(said[:, : -(-(features.shape[1] - start) // factor)])
    total = model.encoder.output_length(lengths)
    return Activity(torch.cat(pieces, 1)[:, : model.encoder.output_length(features.shape[1])], total)


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands: all that is needed to go on with it elsewhere."""

    memory: SpeakerMemory
    samples: Tensor
    """[S] the samples that features are still to be made of."""
    features: Tensor
    """[T', F] the features that are still to be heard, the left context first."""
    received: int
    """Samples pushed so far."""
    featured: int
    """Feature frames made so far."""
    heard: int
    """Frames of the model that are final."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, ready for `safetensors.torch.save_file`."""
        counts = torch.tensor([self.received, self.featured, self.heard])
        rest = {"samples": self.samples, "features": self.features, "counts": counts}
        named = {f"memory.{name}": tensor for name, tensor in self.memory.tensors().items()}
        return {name: tensor.contiguous() for name, tensor in {**named, **rest}.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> StreamState:
        """The state that `tensors` described; CheckpointError names what is missing."""
        for name in ("samples", "features", "counts"):
            if name not in tensors:
                raise CheckpointError(f"the saved state of the stream lacks {name!r}")
        inner = {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("memory.")}
        memory = SpeakerMemory.from_tensors(inner)
        return cls(memory, tensors["samples"], tensors["features"], *tensors["counts"].tolist())


class Stream:
    """A live recording: samples in, frames that will not change any more out.

    >>> stream = model.stream(latency=1.04)                          # doctest: +SKIP
    >>> stream.push(samples).shape                                   # doctest: +SKIP
    torch.Size([6, 4])
    >>> stream.finish().shape, stream.frames                         # doctest: +SKIP
    (torch.Size([9, 4]), 15)

    Not for two threads at once; `state` may be read, saved and handed to another stream between pushes.
    """

    def __init__(self, model: SortformerModel, profile: Profile, state: StreamState | None = None) -> None:
        check_mode(model)
        self.model, self.profile = model, profile
        self._pieces: list[Tensor] = []
        self._waiting = 0
        self._state = _checked(state, model, profile) if state else self._fresh()
        self._finished = False

    @property
    def state(self) -> StreamState:
        """Where the stream stands; give it to `model.stream(..., state=)` to go on."""
        if self._pieces:
            samples = torch.cat([self._state.samples, *self._pieces])
            self._state = replace(self._state, samples=samples, received=self._state.received + self._waiting)
            self._pieces, self._waiting = [], 0
        return self._state

    @property
    def frames(self) -> int:
        """Frames given out so far."""
        return self._state.heard

    @property
    def seconds(self) -> float:
        """Seconds of audio pushed so far."""
        return (self._state.received + self._waiting) / self.model.sample_rate

    @torch.inference_mode()
    def push(self, samples: Any, *, sample_rate: int | None = None) -> Tensor:
        """Samples [S] as floats in [-1, 1] -> probabilities [T, N] of the frames that became final, maybe none.

        Raises AudioError for NaN, another shape, or a `sample_rate` that is not the model's.
        """
        if self._finished:
            raise OptionError("the stream is finished; open another one with model.stream()")
        if sample_rate is not None and sample_rate != self.model.sample_rate:
            raise AudioError(
                f"the stream is fed samples at {sample_rate} Hz but the model hears {self.model.sample_rate} Hz;"
                " resample them first"
            )
        received = self._state.received + self._waiting
        new = _samples(samples, received, self.model.sample_rate)
        if len(new):
            self._pieces.append(new)
            self._waiting += len(new)
        pieces = []
        while self._state.received + self._waiting >= self._samples_needed():
            pieces.append(self._step(last=False))
        return self._joined(pieces)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """Ends the stream: probabilities [T, N] of the frames that waited for what would follow."""
        if self._finished:
            return self._joined([])
        state = self.state
        total = state.received // self.model.config.preprocessor.hop
        frames = int(self.model.encoder.output_length(total))
        pieces = []
        while self._state.heard < frames:
            pieces.append(self._step(last=True))
        self._finished = True
        return self._joined(pieces)

    def _fresh(self) -> StreamState:
        config, device = self.model.config.preprocessor, self.model.device
        memory = new_memory(self.model, self.profile)
        features = torch.zeros(0, config.n_mels, device=device)
        return StreamState(memory, torch.zeros(0), features, 0, 0, 0)

    def _features_needed(self) -> int:
        """Feature frames from the start of the recording that the next step reads."""
        ahead = self.profile.chunk + self.profile.right
        return (self._state.heard + ahead) * int(self.model.config.encoder.subsampling_factor)

    def _samples_needed(self) -> int:
        """Samples from the start of the recording that those features are made of."""
        config = self.model.config.preprocessor
        return (self._features_needed() - 1) * config.hop + max(config.n_fft // 2, config.hop)

    def _step(self, last: bool) -> Tensor:
        """The next chunk's probabilities [T, N]; the last ones of a recording may be shorter."""
        state = self.state
        factor = int(self.model.config.encoder.subsampling_factor)
        total = state.received // self.model.config.preprocessor.hop if last else self._features_needed()
        wanted = min(self._features_needed(), total)
        features = torch.cat([state.features, self._features(state, wanted)])
        context = min(state.heard, self.profile.left)
        device = self.model.device
        said, new, memory = step(
            self.model,
            state.memory,
            features[None],
            torch.tensor([len(features)], device=device),
            torch.tensor([context], device=device),
            profile=self.profile,
        )
        count = int(new[0])
        heard = state.heard + count
        keep_from = (heard - min(heard, self.profile.left)) * factor
        begins = (state.heard - context) * factor
        rest = features[keep_from - begins :].clone()
        samples = self._still_needed(state, wanted)
        self._state = StreamState(memory, samples, rest, state.received, wanted, heard)
        return said[0, :count]

    def _features(self, state: StreamState, stop: int) -> Tensor:
        """Feature frames [state.featured, stop) of the recording."""
        config = self.model.config.preprocessor
        start = state.featured
        if stop <= start:
            return state.features.new_zeros(0, config.n_mels)
        margin = _margin(start, config)
        begin = (start - margin) * config.hop
        end = min((stop - 1) * config.hop + max(config.n_fft // 2, config.hop), state.received)
        first = state.received - len(state.samples)
        signal = state.samples[begin - first : end - first].to(self.model.device)
        length = torch.tensor([len(signal)], device=signal.device)
        made: Tensor = self.model.preprocessor.featurizer(signal[None], length)[0]
        return made[margin : margin + stop - start]

    def _still_needed(self, state: StreamState, featured: int) -> Tensor:
        """The samples that features after `featured` need."""
        config = self.model.config.preprocessor
        begin = (featured - _margin(featured, config)) * config.hop
        return state.samples[max(begin - (state.received - len(state.samples)), 0) :].clone()

    def _joined(self, pieces: list[Tensor]) -> Tensor:
        if not pieces:
            return torch.zeros(0, self.model.max_speakers, device=self.model.device)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _margin(start: int, config: Any) -> int:
    """Feature frames before `start` whose samples the window of `start` reaches into, filter included."""
    return min(start, -(-(config.n_fft // 2 + 1) // config.hop))


def _samples(samples: Any, received: int, rate: int) -> Tensor:
    """Pushed samples as a float32 tensor [S] on the CPU, or an AudioError that says what is wrong with them."""
    given = samples if isinstance(samples, Tensor) else torch.from_numpy(np.ascontiguousarray(samples))
    new = given.detach().cpu()
    if new.ndim != 1:
        raise AudioError(
            f"a stream takes samples [S] of one channel, not an array of shape {tuple(new.shape)}"
        )
    if not new.is_floating_point():
        raise AudioError(f"a stream takes floats in [-1, 1], not {new.dtype}; divide integers by their range")
    new = new.float().clone()
    if not bool(new.sum().isfinite()) and len(bad := torch.nonzero(~new.isfinite())):
        place = received + int(bad[0])
        raise AudioError(f"sample {place} of the stream (at {place / rate:.3f} s) is NaN or infinite")
    return new


def _checked(state: StreamState, model: SortformerModel, profile: Profile) -> StreamState:
    """A state that fits the model and the profile, on the model's device."""
    expected = new_memory(model, profile).tensors()
    moved = {name: tensor.to(model.device) for name, tensor in state.memory.tensors().items()}
    for name, tensor in expected.items():
        if moved[name].shape != tensor.shape:
            raise OptionError(
                f"the saved state has {name} {tuple(moved[name].shape)}, but this model and profile need"
                f" {tuple(tensor.shape)}: it was saved with others"
            )
    features = state.features.to(model.device)
    return replace(state, memory=SpeakerMemory(**moved), samples=state.samples.cpu(), features=features)
