"""From inputs to diarizations: opened one by one, short ones heard in batches, long ones as streams.

Everything here lives in the call: neither the model nor any module-level state is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aronnax.collections.asr.inputs import Excerpt, Source, Stream, is_single, sources
from aronnax.collections.common.calls import at_least_one, check_mode
from aronnax.collections.common.results.diarization import Diarization, Turn
from aronnax.collections.diarization import postprocessing
from aronnax.collections.diarization.postprocessing import PostProcessing
from aronnax.collections.diarization.sortformer.streaming import PROFILES
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.diarization.sortformer.model import SortformerModel

OFFLINE_SECONDS = 90.0
"""Recordings up to the length of the training sessions are heard at once."""
LONG_LATENCY = 30.4
"""Profile for longer ones: nobody waits for a file, so the most accurate."""
READ_SECONDS = 10.0
"""A long recording is read in pieces of so many seconds."""


@dataclass(frozen=True)
class Options:
    """The keywords of `diarize`, checked."""

    latency: float | str | None
    """"offline", or seconds from a sound to what is said of it; None chooses by a recording's length."""
    batch_size: int
    """Short recordings heard together."""
    processing: PostProcessing
    """From probabilities to turns."""
    sample_rate: int | None
    """Samples a second of bare arrays and tensors."""
    apart: bool
    """Whether each channel has speakers of its own."""
    num_speakers: int | None
    """How many to expect, where that is known."""
    progress: Callable[[float], None] | None
    """Called with the seconds of audio finished since the last call."""

    @classmethod
    def checked(
        cls,
        model: SortformerModel,
        *,
        latency: float | str | None = None,
        batch_size: int = 4,
        preset: str | None = None,
        replaced: Mapping[str, float | None] | None = None,
        sample_rate: int | None = None,
        channels: str = "mix",
        num_speakers: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Options:
        """The options of a call; OptionError names the one the model cannot honour."""
        check_mode(model)
        at_least_one("batch_size", batch_size)
        if channels not in ("mix", "apart"):
            raise OptionError(f"channels={channels!r} is not known: use 'mix' or 'apart'")
        if num_speakers is not None and not 1 <= num_speakers <= model.max_speakers:
            raise OptionError(
                f"num_speakers={num_speakers} is outside 1..{model.max_speakers}: this model tells at most"
                f" {model.max_speakers} speakers apart"
            )
        _check_latency(model, latency)
        processing = postprocessing.choose(preset, replaced or {}, streaming=model.config.streaming)
        return cls(latency, batch_size, processing, sample_rate, channels == "apart", num_speakers, progress)


@dataclass(frozen=True)
class Result:
    """What became of one input: a diarization, or the error that stands in its place."""

    index: int
    source: str | None
    diarization: Diarization | None = None
    error: AronnaxError | None = None


@dataclass(frozen=True)
class Opened:
    """A recording, one stream for each channel that is heard by itself, and how it will be heard."""

    index: int
    source: Source
    streams: tuple[Stream, ...]
    latency: float | None
    note: str

    @property
    def samples(self) -> int:
        """Length of the recording."""
        return self.streams[0].samples


def diarize_all(model: SortformerModel, x: Any, options: Options) -> Diarization | list[Diarization]:
    """The diarization of one recording, or a list of them; raises the first error."""
    found: dict[int, Diarization] = {}
    for result in diarize_iter(model, x, options):
        if result.error is not None:
            raise result.error
        assert result.diarization is not None
        found[result.index] = result.diarization
    return found[0] if is_single(x) else [found[index] for index in sorted(found)]


def diarize_iter(model: SortformerModel, x: Any, options: Options) -> Iterator[Result]:
    """A result for every recording of an input, as they finish; `index` counts them in input order.

    One that cannot be read gives a result with `error` set, and the others go on.
    """
    waiting: list[Opened] = []
    for index, source in enumerate(sources(x, options.sample_rate)):
        if isinstance(source, AronnaxError):
            yield Result(index, None, error=source)
            continue
        try:
            opened = _open(model, options, index, source)
        except AronnaxError as error:
            yield Result(index, source.name, error=error)
            continue
        if opened.latency is not None:
            yield _hear_long(model, opened, options)
            continue
        waiting.append(opened)
        if len(waiting) >= options.batch_size:
            yield from _hear_batch(model, waiting, options)
            waiting = []
    if waiting:
        yield from _hear_batch(model, waiting, options)


def _check_latency(model: SortformerModel, latency: float | str | None) -> None:
    if latency is None or latency == "offline":
        return
    if isinstance(latency, str):
        known = ", ".join(map(str, PROFILES))
        raise OptionError(f"latency={latency!r} is not known: use 'offline' or one of {known} seconds")
    from aronnax.collections.diarization.sortformer.streaming import choose_profile

    choose_profile(model, latency)


def _open(model: SortformerModel, options: Options, index: int, source: Source) -> Opened:
    streams = [_open_channel(source, model.sample_rate, 0 if options.apart else "mean")]
    if options.apart:
        inner: Any = streams[0].stream if isinstance(streams[0], Excerpt) else streams[0]
        rest = range(1, inner.info.channels)
        streams += [_open_channel(source, model.sample_rate, channel) for channel in rest]
    latency, note = _way(model, options, streams[0].samples / model.sample_rate)
    return Opened(index, source, tuple(streams), latency, note)


def _open_channel(source: Source, sample_rate: int, channel: Any) -> Stream:
    from aronnax.collections.common.audio.reading import open_audio

    audio = source.audio if source.sample_rate is None else (source.audio, source.sample_rate)
    stream = open_audio(audio, sample_rate, channel=channel)
    if not source.offset and source.duration is None:
        return stream
    return Excerpt.of(stream, source, sample_rate)


def _way(model: SortformerModel, options: Options, seconds: float) -> tuple[float | None, str]:
    """The latency to stream with (None: all at once) and why."""
    if options.latency == "offline":
        return None, "heard at once, as asked"
    if options.latency is not None:
        return float(options.latency), f"streamed with {options.latency} s latency, as asked"
    if seconds <= OFFLINE_SECONDS:
        return None, f"heard at once: no longer than {OFFLINE_SECONDS:g} s"
    if not model.config.streaming or model.config.preprocessor.normalize != "none":
        return None, f"heard at once though longer than {OFFLINE_SECONDS:g} s: this model cannot be streamed"
    return LONG_LATENCY, f"streamed with {LONG_LATENCY} s latency: longer than {OFFLINE_SECONDS:g} s"


@torch.inference_mode()
def _hear_batch(model: SortformerModel, batch: list[Opened], options: Options) -> Iterator[Result]:
    """Recordings heard at once; one that turns out unreadable does not harm the others."""
    rows: list[tuple[int, torch.Tensor]] = []
    errors: dict[int, AronnaxError] = {}
    for place, opened in enumerate(batch):
        try:
            for stream in opened.streams:
                rows.append((place, torch.from_numpy(stream.read(0, stream.samples))))
        except AronnaxError as error:
            errors[place] = error
        finally:
            _close(opened)
    rows = [(place, samples) for place, samples in rows if place not in errors]
    heard: dict[int, list[np.ndarray]] = {}
    for first in range(0, len(rows), options.batch_size):
        part = rows[first : first + options.batch_size]
        signal = torch.nn.utils.rnn.pad_sequence([samples for _, samples in part], batch_first=True)
        lengths = torch.tensor([len(samples) for _, samples in part])
        found = model(signal.to(model.device), lengths.to(model.device))
        for (place, _), row, frames in zip(part, found.probabilities.cpu().numpy(), found.lengths.tolist()):
            heard.setdefault(place, []).append(row[:frames])
    for place, opened in enumerate(batch):
        if place in errors:
            yield Result(opened.index, opened.source.name, error=errors[place])
            continue
        if options.progress is not None:
            options.progress(opened.samples / model.sample_rate)
        yield Result(opened.index, opened.source.name, _diarization(model, opened, heard[place], options))


def _hear_long(model: SortformerModel, opened: Opened, options: Options) -> Result:
    """A recording read piece by piece: its memory does not grow with its length."""
    try:
        heard = [_streamed(model, stream, opened, options) for stream in opened.streams]
    except AronnaxError as error:
        return Result(opened.index, opened.source.name, error=error)
    finally:
        _close(opened)
    return Result(opened.index, opened.source.name, _diarization(model, opened, heard, options))


def _streamed(model: SortformerModel, stream: Stream, opened: Opened, options: Options) -> np.ndarray:
    live = model.stream(opened.latency)
    size = round(READ_SECONDS * model.sample_rate)
    pieces = []
    for start in range(0, stream.samples, size):
        samples = stream.read(start, start + size)
        pieces.append(live.push(samples).cpu().numpy())
        if options.progress is not None:
            options.progress(len(samples) / model.sample_rate / len(opened.streams))
    pieces.append(live.finish().cpu().numpy())
    return np.concatenate(pieces)


def _close(opened: Opened) -> None:
    for stream in opened.streams:
        stream.close()


def _diarization(
    model: SortformerModel, opened: Opened, heard: list[np.ndarray], options: Options
) -> Diarization:
    """The result of a recording from the probabilities [T, N] of each of its channels."""
    duration = opened.samples / model.sample_rate
    names: list[str] = []
    kept: list[np.ndarray] = []
    turns: list[Turn] = []
    for channel, probabilities in enumerate(heard):
        prefix = f"channel_{channel}_" if options.apart else ""
        columns = _most_active(probabilities, options.num_speakers)
        probabilities = _gathered(probabilities, columns)
        own = tuple(f"{prefix}speaker_{column}" for column in columns)
        found = postprocessing.turns(
            probabilities,
            options.processing,
            own,
            frame_seconds=model.frame_seconds,
            duration=duration,
        )
        names += own
        kept.append(probabilities)
        turns += found
    notes = [opened.note]
    if not turns:
        notes.append("nobody speaks: no probability rises above the onset")
    return Diarization(
        turns=tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))),
        duration=duration,
        probabilities=np.concatenate(kept, 1),
        frame_seconds=model.frame_seconds,
        names=tuple(names),
        source=opened.source.name,
        model=model.source,
        notes=tuple(notes),
    )


def _most_active(probabilities: np.ndarray, count: int | None) -> list[int]:
    """The columns of the `count` speakers who speak most, in the order of arrival."""
    columns = range(probabilities.shape[1])
    if count is None:
        return list(columns)
    spoken = (
        (probabilities > 0.5).sum(0) + probabilities.mean(0) if len(probabilities) else np.zeros(len(columns))
    )
    return sorted(sorted(columns, key=lambda column: -spoken[column])[:count])


def _gathered(probabilities: np.ndarray, columns: list[int]) -> np.ndarray:
    """The columns kept [T, K]; what others are heard to say goes, frame by frame, to who is likeliest of these."""
    if len(columns) == probabilities.shape[1]:
        return probabilities
    kept = probabilities[:, columns]
    likeliest = np.arange(len(kept)), kept.argmax(1)
    others = probabilities.sum(1) - kept.sum(1)
    kept[likeliest] = np.minimum(1.0, kept[likeliest] + np.maximum(0.0, others))
    return kept
