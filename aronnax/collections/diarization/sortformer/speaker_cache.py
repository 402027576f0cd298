"""The arrival-order speaker cache and the queue before it (arXiv 2507.18446, section 2), for batches of streams.

Every row has lengths of its own, so rows may stand at different positions of their recordings. Frames of all
speakers lie in the cache grouped by speaker in the order of their arrival, which is how the model knows later
which of its outputs belongs to whom.

`B` rows, `T` frames, `C` places of the cache, `Q` of the queue, `K` frames of a chunk, `D` width, `S` speakers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.diarization.sortformer.config import Profile, SpeakerCacheConfig
from aronnax.core.errors import CheckpointError


@dataclass(frozen=True)
class SpeakerMemory:
    """What a batch of streams remembers; passed in and handed back, never changed in place."""

    cache: Tensor
    """[B, C, D] frames before the encoder's layers."""
    cache_probabilities: Tensor
    """[B, C, S] what was said of them."""
    cache_lengths: Tensor
    """[B] places in use."""
    fifo: Tensor
    """[B, Q, D] the latest frames."""
    fifo_lengths: Tensor
    """[B] places in use."""
    silence: Tensor
    """[B, D] mean of the silent frames that left the queue."""
    silence_frames: Tensor
    """[B] how many they were."""
    compressed: Tensor
    """[B] whether the cache was compressed before."""
    order: Tensor
    """[B, S] the speaker, in the order of the outputs, at each place of the cache; differs in training only."""

    @classmethod
    def empty(
        cls,
        batch: int,
        profile: Profile,
        width: int,
        speakers: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> SpeakerMemory:
        """The memory of `batch` streams that have heard nothing."""

        def zeros(*shape: int, of: torch.dtype = dtype) -> Tensor:
            return torch.zeros(batch, *shape, dtype=of, device=device)

        return cls(
            zeros(profile.cache, width),
            zeros(profile.cache, speakers),
            zeros(of=torch.int64),
            zeros(profile.fifo, width),
            zeros(of=torch.int64),
            zeros(width),
            zeros(of=torch.int64),
            zeros(of=torch.bool),
            torch.arange(speakers, device=device).expand(batch, speakers),
        )

    def select(self, rows: Tensor) -> SpeakerMemory:
        """The streams at these places [N] of the batch, in this order."""
        return SpeakerMemory(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, ready for safetensors; `from_tensors` is the inverse."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SpeakerMemory:
        """The memory that `tensors` described; CheckpointError names what is missing."""
        for field in fields(cls):
            if field.name not in tensors:
                raise CheckpointError(f"the saved state of the stream lacks {field.name!r}")
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})


class Compressed(NamedTuple):
    """frames [B, C, D], probabilities [B, C, S], chosen places [B, C] (-1: the mean silence), order [B, S]."""

    frames: Tensor
    probabilities: Tensor
    indices: Tensor
    order: Tensor


def window(x: Tensor, starts: Tensor, counts: Tensor, width: int) -> Tensor:
    """From each row of x [B, T, ...] `counts` [B] frames beginning at `starts` [B] -> [B, width, ...], then zeros."""
    places = torch.arange(width, device=x.device)
    index = (starts[:, None] + places).clamp(0, max(x.shape[1] - 1, 0))
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0], width, *x.shape[2:])
    taken = torch.gather(x, 1, index[:, :, None].expand(-1, -1, x.shape[2]))
    return taken.masked_fill((places >= counts[:, None])[:, :, None], 0.0)


def packed(parts: list[Tensor], lengths: list[Tensor], width: int) -> Tensor:
    """The valid frames of each part [B, T_i, D], one part behind the other, padded with zeros to `width`."""
    places = torch.arange(width, device=parts[0].device).expand(parts[0].shape[0], width)
    index, before = torch.zeros_like(places), torch.zeros_like(lengths[0])
    offset = 0
    for part, length in zip(parts, lengths):
        here = places >= before[:, None]
        index = torch.where(here, places - before[:, None] + offset, index)
        before, offset = before + length, offset + part.shape[1]
    joined = torch.cat(parts, 1)
    index = index.clamp(0, max(joined.shape[1] - 1, 0))
    taken = torch.gather(joined, 1, index[:, :, None].expand(-1, -1, joined.shape[2]))
    return taken.masked_fill((places >= before[:, None])[:, :, None], 0.0)


def remember(
    memory: SpeakerMemory,
    chunk: Tensor,
    lengths: Tensor,
    left: Tensor,
    probabilities: Tensor,
    *,
    profile: Profile,
    config: SpeakerCacheConfig,
    asynchronous: bool = False,
    training: bool = False,
) -> tuple[Tensor, SpeakerMemory]:
    """What a step made final, and the memory after it.

    chunk [B, left + K + right, D]: the frames encoded behind cache and queue; lengths [B]: how many of them are
    new, the first `left` [B] being context. probabilities [B, T, S]: of cache, queue and chunk, packed.
    Returns the new frames' probabilities [B, K, S] and the memory.
    """
    probabilities = torch.gather(
        probabilities, 2, memory.order.argsort(1)[:, None].expand(-1, probabilities.shape[1], -1)
    )
    zero = torch.zeros_like(lengths)
    in_cache, in_fifo = memory.cache_lengths, memory.fifo_lengths
    places, room, most = memory.cache.shape[1], memory.fifo.shape[1], profile.chunk
    most = min(most, chunk.shape[1])
    new = window(chunk, left, lengths, most)
    new_probabilities = window(probabilities, in_cache + in_fifo + left, lengths, most)
    queue = packed([memory.fifo, new], [in_fifo, lengths], room + most)
    queue_probabilities = window(probabilities, in_cache, in_fifo, room)
    queue_probabilities = packed([queue_probabilities, new_probabilities], [in_fifo, lengths], room + most)
    queued = in_fifo + lengths
    leaving = torch.minimum(torch.clamp(queued - room, min=profile.update), queued)
    leaving = torch.where(queued > room, leaving, zero)
    kept = queued - leaving
    memory = replace(memory, fifo=window(queue, leaving, kept, room), fifo_lengths=kept)
    if not bool((leaving > 0).any()):
        return new_probabilities, memory
    width = int(leaving.max())
    gone, gone_probabilities = queue[:, :width], queue_probabilities[:, :width]
    memory = _heard_silence(memory, gone, gone_probabilities, leaving, config.silence_threshold)
    known = memory.cache_probabilities
    if not asynchronous:
        fresh = window(probabilities, zero, in_cache, places)
        known = torch.where(memory.compressed[:, None, None], known, fresh)
    total = places + width
    frames = packed([memory.cache, gone], [in_cache, leaving], total)
    known = packed([known, gone_probabilities], [in_cache, leaving], total)
    return new_probabilities, _cached(memory, frames, known, in_cache + leaving, config, training)


def _cached(
    memory: SpeakerMemory,
    frames: Tensor,
    probabilities: Tensor,
    lengths: Tensor,
    config: SpeakerCacheConfig,
    training: bool,
) -> SpeakerMemory:
    """Puts frames [B, T, D] of `lengths` [B] into the cache, compressing the rows in which they are too many."""
    places = memory.cache.shape[1]
    rows = torch.nonzero(lengths > places)[:, 0]
    cache, known, order = frames[:, :places], probabilities[:, :places], memory.order
    compressed = memory.compressed
    if len(rows):
        longest = int(lengths[rows].max())
        made = compress(
            frames[rows, :longest],
            probabilities[rows, :longest],
            memory.silence[rows],
            places,
            config,
            training=training,
        )
        cache = cache.index_copy(0, rows, made.frames)
        known = known.index_copy(0, rows, made.probabilities)
        order = order.index_copy(0, rows, made.order)
        compressed = compressed.index_fill(0, rows, True)
    return replace(
        memory,
        cache=cache,
        cache_probabilities=known,
        cache_lengths=lengths.clamp(max=places),
        compressed=compressed,
        order=order,
    )


def _heard_silence(
    memory: SpeakerMemory, frames: Tensor, probabilities: Tensor, lengths: Tensor, threshold: float
) -> SpeakerMemory:
    """Takes the silent among `lengths` [B] frames [B, T, D] into the running mean."""
    silent = (probabilities.sum(2) < threshold) & valid_frames(lengths, frames.shape[1])
    new = silent.sum(1)
    count = memory.silence_frames + new
    total = memory.silence * memory.silence_frames[:, None] + (frames * silent[:, :, None]).sum(1)
    # A row without new silence keeps its very bits, whatever the others of the batch heard.
    mean = torch.where((new > 0)[:, None], total / count.clamp(min=1)[:, None], memory.silence)
    return replace(memory, silence=mean, silence_frames=count)


def compress(
    frames: Tensor,
    probabilities: Tensor,
    silence: Tensor,
    places: int,
    config: SpeakerCacheConfig,
    *,
    training: bool = False,
) -> Compressed:
    """The `places` frames that tell most about who the speakers are, out of frames [B, T, D], T > places.

    probabilities [B, T, S] (zeros in the padding), silence [B, D] fills the silence slots and what nobody claims.
    In training the speakers heard so far are put in random order.
    """
    speakers = probabilities.shape[2]
    share = places // speakers - config.silence_slots
    scores = _without_useless(_scores(probabilities, config.floor), probabilities, share * config.alone_rate)
    order = torch.arange(speakers, device=scores.device).expand(len(scores), speakers)
    if training:
        order = _shuffled(scores)
        scores = torch.gather(scores, 2, order[:, None].expand_as(scores))
    recent = torch.arange(scores.shape[1], device=scores.device) >= places
    scores = scores + config.recent_boost * recent[:, None].to(scores.dtype)
    if training and config.noise > 0:
        scores = scores + torch.rand_like(scores) * config.noise
    scores = _boosted(scores, math.floor(share * config.strong_rate), 2 * math.log(2))
    scores = _boosted(scores, math.floor(share * config.weak_rate), math.log(2))
    indices = _best(scores, places, config.silence_slots)
    taken, nobody = indices.clamp(min=0)[:, :, None], (indices < 0)[:, :, None]
    chosen = torch.gather(frames, 1, taken.expand(-1, -1, frames.shape[2]))
    heard = torch.gather(probabilities, 1, taken.expand(-1, -1, speakers))
    return Compressed(
        torch.where(nobody, silence[:, None].to(chosen.dtype), chosen),
        heard.masked_fill(nobody, 0.0),
        indices,
        order,
    )


def _scores(probabilities: Tensor, floor: float) -> Tensor:
    """High where one speaker speaks for sure and the others for sure do not: [B, T, S]."""
    speaking = probabilities.clamp(min=floor).log()
    quiet = (1.0 - probabilities).clamp(min=floor).log()
    return speaking - quiet + quiet.sum(2, keepdim=True) - math.log(0.5)


def _without_useless(scores: Tensor, probabilities: Tensor, enough: float) -> Tensor:
    """-inf where a speaker does not speak, and in overlap if `enough` frames of the speaker are without it."""
    speaking, alone = probabilities > 0.5, scores > 0
    alone = alone & speaking
    plenty = alone.sum(1, keepdim=True) >= math.floor(enough)
    return scores.masked_fill(~speaking | (~alone & plenty), -math.inf)


def _shuffled(scores: Tensor) -> Tensor:
    """A random order [B, S] of the speakers before the first who was never heard alone; the others stay."""
    speakers = scores.shape[2]
    heard = (scores > 0).any(1).to(torch.int64).cumprod(1)
    places = torch.arange(speakers, device=scores.device)
    keys = torch.where(heard > 0, torch.rand(heard.shape, device=scores.device), places + 1.0)
    return keys.argsort(1)


def _boosted(scores: Tensor, count: int, gain: float) -> Tensor:
    """Adds `gain` to the best `count` frames of each speaker; among equals the earlier frame wins."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return scores.scatter_add(1, best, torch.full_like(best, gain, dtype=scores.dtype))


def _best(scores: Tensor, places: int, silence_slots: int) -> Tensor:
    """Frames [B, places] of the best scores [B, T, S], by speaker and then by time; -1 for silence, last."""
    rows, frames, speakers = scores.shape
    slots = scores.new_full((rows, silence_slots, speakers), math.inf)
    flat = torch.cat([scores, slots], 1).transpose(1, 2).flatten(1)
    values, index = flat.sort(dim=1, descending=True, stable=True)
    values, index = values[:, :places], index[:, :places]
    last = flat.shape[1]
    index = index.masked_fill(values == -math.inf, last).sort(1).values
    frame = index % (frames + silence_slots)
    return frame.masked_fill((index == last) | (frame >= frames), -1)
