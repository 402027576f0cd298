"""Recordings to transcripts with speakers: diarized as a whole, recognised at once or in pieces.

Everything here lives in the call: neither the model nor any module-level state is changed.
`B` batch, `S` samples, `T` frames, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.inputs import Source, Stream, sources
from aronnax.collections.asr.long_form.cuts import Piece, pieces_of
from aronnax.collections.asr.long_form.engine import SHORTEST_SECONDS
from aronnax.collections.asr.long_form.joining import Part, joined
from aronnax.collections.asr.transcribing import Result
from aronnax.collections.asr.words import Clock, segments_of
from aronnax.collections.common.results import Diarization, Segment, Transcript, Word
from aronnax.collections.diarization.diarizing import Options as DiarizingOptions
from aronnax.collections.diarization.diarizing import diarize_iter
from aronnax.collections.diarization.multispeaker.activity import crowded, frame_activity
from aronnax.collections.diarization.multispeaker.kernel import TOLERANCE
from aronnax.collections.diarization.multispeaker.options import Options
from aronnax.collections.diarization.multispeaker.serialisation import token_runs
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.diarization.multispeaker.model import MultispeakerModel


@dataclass(frozen=True)
class Opened:
    """A recording, who speaks in each of its frames [T, N], and what is asked of it."""

    index: int
    source: Source
    stream: Stream
    activity: np.ndarray
    asked: Any
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A signal [S] that is recognised at once, the activity [T, N] in it, and what is asked."""

    signal: np.ndarray
    activity: np.ndarray
    asked: Any


def transcribe_each(model: MultispeakerModel, x: Any, options: Options) -> Generator[Result, None, None]:
    """A result for every recording of an input, as they finish; `index` counts recordings in input order."""
    numbered = enumerate(sources(x, options.sample_rate))
    while group := list(islice(numbered, options.batch_size)):
        ready: list[Opened] = []
        for opened in _opened(model, group, options):
            if isinstance(opened, Result):
                yield opened
            else:
                ready.append(opened)
        most = round(options.piece * model.sample_rate)
        short = [one for one in ready if one.stream.samples <= most]
        yield from _hear_short(model, short, options)
        for one in ready:
            if one.stream.samples > most:
                yield _hear_long(model, one, options)


def hear(model: MultispeakerModel, rows: Sequence[Row], options: Options) -> list[tuple[Hypothesis, bool]]:
    """A hypothesis for each row, speaker tokens in it, and whether the decoder was stopped; a row is as if alone."""
    # Silence behind a very short signal, not around it, so that its frames stay where its activity is.
    shortest = round(SHORTEST_SECONDS * model.sample_rate)
    signals = [np.pad(row.signal, (0, max(0, shortest - len(row.signal)))) for row in rows]
    lengths = torch.tensor([len(signal) for signal in signals])
    frames = [-(-len(signal) // model.samples_per_frame) for signal in signals]
    batch = torch.zeros(len(rows), int(lengths.max()))
    activity = torch.zeros(len(rows), max(frames), model.max_speakers)
    for place, (row, signal) in enumerate(zip(rows, signals)):
        batch[place, : len(signal)] = torch.from_numpy(signal)
        known = _fitted(row.activity, -(-len(row.signal) // model.samples_per_frame))
        activity[place, : len(known)] = torch.from_numpy(known)
    prompted = options.request.keywords([row.asked for row in rows]) if options.request else {}
    with torch.inference_mode():
        counted = torch.tensor(frames, device=model.device)
        encoded = model.encode(
            batch.to(model.device), lengths.to(model.device), activity.to(model.device), counted
        )
        found, _ = model.recogniser.decode(
            encoded.states, encoded.lengths, head=options.head, confidence=options.confidence, **prompted
        )
        cut_short = [hypothesis.cut_short for hypothesis in found]
        if options.request:
            found = options.request.settled(found, [row.asked for row in rows], encoded, signals)
    return list(zip(found, cut_short))


def attributed(
    model: MultispeakerModel, hypothesis: Hypothesis, clock: Clock, speakers: Mapping[int, int]
) -> list[list[Word]]:
    """The words of a hypothesis with their speakers: a list for each stretch in which one of them has the word."""
    stretches: list[list[Word]] = []
    for run in token_runs(hypothesis.tokens, speakers):
        span = slice(run.start, run.stop)
        part = Hypothesis(
            hypothesis.tokens[span],
            hypothesis.frames[span],
            hypothesis.durations[span],
            hypothesis.confidences[span],
        )
        name = speaker_name(run.speaker)
        words = [replace(word, speaker=name) for word in model.recogniser.words(part, clock)]
        if words:
            stretches.append(words)
    return [
        [word for words in group for word in words]
        for _, group in groupby(stretches, key=lambda words: words[0].speaker)
    ]


def speaker_name(number: int) -> str:
    """What results call the speaker of that number: SPEAKER 1 is the first to arrive."""
    return f"SPEAKER {number + 1}"


def _opened(
    model: MultispeakerModel, group: Iterable[tuple[int, Source | AronnaxError]], options: Options
) -> Iterator[Opened | Result]:
    """The recordings of a group, diarized together; one that cannot be read is a result with its error."""
    readable: list[tuple[int, Source]] = []
    for index, source in group:
        if isinstance(source, AronnaxError):
            yield Result(index, None, error=source)
            continue
        if hasattr(source.audio, "read"):
            # It is read twice: by the diarizer, and by the recogniser.
            source = replace(source, audio=source.audio.read())
        readable.append((index, source))
    for (index, source), found in zip(readable, _diarized(model, readable, options)):
        try:
            yield _open(model, index, source, found, options)
        except AronnaxError as error:
            yield Result(index, source.name, error=error)


def _diarized(
    model: MultispeakerModel, group: Sequence[tuple[int, Source]], options: Options
) -> list[Diarization | AronnaxError | None]:
    """Who speaks when in each recording: as given, else as the model's diarizer finds; None without a kernel."""
    if model.kernel is None:
        return [None] * len(group)
    if options.diarizations is not None:
        few = OptionError("diarization= needs one for each recording, and there are more of these")
        given = options.diarizations
        return [given[index] if index < len(given) else few for index, _ in group]
    assert model.diarizer is not None, "checked with the options"
    settings = DiarizingOptions.checked(model.diarizer, batch_size=options.batch_size)
    results = diarize_iter(model.diarizer, [source for _, source in group], settings)
    found = {result.index: result.error or result.diarization for result in results}
    return [found[place] for place in range(len(group))]


def _open(
    model: MultispeakerModel,
    index: int,
    source: Source,
    found: Diarization | AronnaxError | None,
    options: Options,
) -> Opened:
    if isinstance(found, AronnaxError):
        raise found
    asked = None if options.request is None else options.request.ask(source)
    stream = source.open(model.sample_rate)
    try:
        activity = _activity(model, stream.samples, found)
    except AronnaxError:
        stream.close()
        raise
    notes = () if found is None else tuple(crowded(found, model.max_speakers))
    return Opened(index, source, stream, activity, asked, notes)


def _activity(model: MultispeakerModel, samples: int, found: Diarization | None) -> np.ndarray:
    """Who speaks in each frame of a recording [T, N]; nobody where nobody is asked."""
    if found is None:
        return np.zeros((-(-samples // model.samples_per_frame), model.max_speakers), np.float32)
    return frame_activity(found, samples, model.sample_rate, model.samples_per_frame, model.max_speakers)


def _hear_short(model: MultispeakerModel, batch: Sequence[Opened], options: Options) -> Iterator[Result]:
    """Recordings that are recognised at once; one that turns out unreadable does not harm the others."""
    rows: dict[int, Row] = {}
    for opened in batch:
        try:
            rows[opened.index] = Row(
                opened.stream.read(0, opened.stream.samples), opened.activity, opened.asked
            )
        except AronnaxError as error:
            yield Result(opened.index, opened.source.name, error=error)
        finally:
            opened.stream.close()
    found = dict(zip(rows, hear(model, list(rows.values()), options))) if rows else {}
    for opened in batch:
        if opened.index in found:
            hypothesis, cut_short = found[opened.index]
            yield _result(model, opened, hypothesis, cut_short, (), options)


def _hear_long(model: MultispeakerModel, opened: Opened, options: Options) -> Result:
    """A recording read in pieces; who speaks is known from the whole of it, so speakers keep their numbers."""
    frame, stream = model.samples_per_frame, opened.stream
    pieces = pieces_of(stream, options.piece, frame)
    parts: list[Part] = []
    any_cut_short = False
    try:
        while batch := list(islice(pieces, options.batch_size)):
            rows = [_piece_row(opened, piece, frame) for piece in batch]
            for piece, (hypothesis, cut_short) in zip(batch, hear(model, rows, options)):
                any_cut_short = any_cut_short or cut_short
                moved = replace(hypothesis, frames=[piece.start // frame + one for one in hypothesis.frames])
                parts.append(Part(moved, piece.first // frame, -(-piece.last // frame)))
    except AronnaxError as error:
        return Result(opened.index, opened.source.name, error=error)
    finally:
        stream.close()
    note = f"recognised in pieces of at most {options.piece:g} s, diarized as a whole"
    return _result(model, opened, joined(parts), any_cut_short, (note,), options)


def _piece_row(opened: Opened, piece: Piece, frame: int) -> Row:
    activity = opened.activity[piece.start // frame : -(-piece.stop // frame)]
    return Row(opened.stream.read(piece.start, piece.stop), activity, opened.asked)


def _fitted(activity: np.ndarray, frames: int) -> np.ndarray:
    """Activity [T, N] of exactly `frames` frames: a frame or two are repeated or cut at its end."""
    if len(activity) == frames:
        return activity
    if abs(len(activity) - frames) > TOLERANCE or not len(activity):
        raise OptionError(
            f"the diarization has {len(activity)} frames, and the recording {frames}: it is of another recording"
        )
    return np.pad(activity, ((0, max(0, frames - len(activity))), (0, 0)), mode="edge")[:frames]


def _result(
    model: MultispeakerModel,
    opened: Opened,
    hypothesis: Hypothesis,
    cut_short: bool,
    notes: tuple[str, ...],
    options: Options,
) -> Result:
    samples = opened.stream.samples
    clock = Clock(model.samples_per_frame, model.sample_rate, 0, samples)
    stretches = attributed(model, hypothesis, clock, options.speakers)
    segments = [segment for words in stretches for segment in segments_of(words)]
    if cut_short:
        notes = (*notes, "cut short: the decoder wrote as many tokens as it may, which loops do too")
    if options.progress is not None:
        options.progress(samples / model.sample_rate)
    asked = None if opened.asked is None else opened.asked.language
    transcript = Transcript(
        text=" ".join(word.text for words in stretches for word in words),
        duration=samples / model.sample_rate,
        words=tuple(sorted((word for words in stretches for word in words), key=_start)),
        segments=tuple(sorted(segments, key=_start)),
        model=model.source,
        source=opened.source.name,
        language=asked or options.language or opened.source.language,
        notes=(*opened.notes, *notes),
    )
    return Result(opened.index, opened.source.name, transcript)


def _start(one: Word | Segment) -> float:
    return one.start
