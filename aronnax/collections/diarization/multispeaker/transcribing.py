"""Recordings to transcripts with speakers: diarized as a whole, recognised at once or in pieces.

Everything here lives in the call: neither the model nor any module-level state is changed.
`B` batch, `S` samples, `T` frames, `N` speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.inputs import Source, Stream, sources
from aronnax.collections.asr.long_form.cuts import Piece, pieces_of
from aronnax.collections.asr.long_form.engine import SHORTEST_SECONDS, Request
from aronnax.collections.asr.long_form.joining import Part, joined
from aronnax.collections.asr.transcribing import CONFIDENCES, Result
from aronnax.collections.asr.words import Clock, segments_of
from aronnax.collections.common.calls import at_least_one, check_mode
from aronnax.collections.common.results import Diarization, Segment, Transcript, Word
from aronnax.collections.diarization.diarizing import Options as DiarizingOptions
from aronnax.collections.diarization.diarizing import diarize_iter
from aronnax.collections.diarization.multispeaker.activity import crowded, frame_activity
from aronnax.collections.diarization.multispeaker.kernel import TOLERANCE
from aronnax.collections.diarization.multispeaker.serialisation import token_runs
from aronnax.collections.diarization.multispeaker.vocabulary import speaker_ids
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.diarization.multispeaker.model import MultispeakerModel

DIARIZE = "diarize"
"""The slot of a prompt that asks for speakers, where the recogniser's prompt has it."""

_ASKED = ("source_lang", "target_lang", "task", "pnc", "itn", "slots", "beam", "length_penalty", "guard")


@dataclass(frozen=True)
class Options:
    """The keywords of `transcribe`, checked."""

    batch_size: int
    head: str
    confidence: str | None
    piece: float
    sample_rate: int | None
    language: str | None
    progress: Callable[[float], None] | None
    diarizations: tuple[Diarization, ...] | None
    speakers: dict[int, int]
    """The number of the speaker that each speaker token's id stands for."""
    request: Request | None

    @classmethod
    def checked(
        cls,
        model: MultispeakerModel,
        *,
        diarization: Diarization | Sequence[Diarization] | None,
        batch_size: int,
        head: str | None,
        confidence: str | None,
        chunk: str | float,
        vad: str | None,
        asked: Mapping[str, Any],
        **given: Any,
    ) -> Options:
        """The options of a call; OptionError names the one the model cannot honour."""
        check_mode(model)
        if model.tokenizer is None:
            raise OptionError("the model has no tokenizer, so its tokens cannot be turned into text")
        at_least_one("batch_size", batch_size)
        if confidence not in CONFIDENCES:
            raise OptionError(
                f"confidence={confidence!r} is not known: use one of {', '.join(map(repr, CONFIDENCES))}"
            )
        if vad is not None:
            raise OptionError(
                f"vad={vad!r} cannot be given: the diarizer of this model knows where there is speech"
            )
        if diarization is None and model.diarizer is None and model.kernel is not None:
            raise OptionError("the model has no diarizer: pass diarization=, who speaks when")
        one = (diarization,) if isinstance(diarization, Diarization) else diarization
        ids = speaker_ids(model.tokenizer, model.config.speaker_tokens)
        return cls(
            batch_size=batch_size,
            head=model.recogniser.choose_head(head),
            confidence=model.recogniser.own_confidence if confidence == "auto" else confidence,
            piece=_piece(model, chunk),
            diarizations=None if one is None else tuple(one),
            speakers={token: number for number, token in enumerate(ids)},
            request=_request(model, asked),
            **given,
        )


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


def _piece(model: MultispeakerModel, chunk: str | float) -> float:
    """Seconds that are recognised at once."""
    if chunk == "auto":
        return model.longest_seconds
    if isinstance(chunk, (int, float)) and not isinstance(chunk, bool) and 0.5 <= chunk <= 3600:
        return float(chunk)
    raise OptionError(f"chunk={chunk!r} is not known: use 'auto' or between 0.5 and 3600 seconds")


def _request(model: MultispeakerModel, asked: Mapping[str, Any]) -> Request | None:
    """What a prompted recogniser is asked: what the caller says, and speakers where its prompt has the slot."""
    from aronnax.collections.asr.canary.model import CanaryModel
    from aronnax.collections.asr.canary.request import CanaryRequest

    given = {name: value for name, value in asked.items() if value is not None}
    if given.pop("timestamps", True) is False:
        raise OptionError("timestamps=False: the words of several speakers are told with their times")
    recogniser = model.recogniser
    unknown = [name for name in given if name not in _ASKED or not isinstance(recogniser, CanaryModel)]
    if unknown:
        raise OptionError(
            f"{unknown[0]}= is not an option of a model with a {recogniser.model_type} recogniser"
        )
    if not isinstance(recogniser, CanaryModel):
        return None
    slots = dict(given.pop("slots", {}))
    searching = {name: given.pop(name) for name in ("beam", "length_penalty", "guard") if name in given}
    return CanaryRequest.checked(
        recogniser, {**speaker_slots(recogniser.slots), **given, **slots}, **searching
    )


def speaker_slots(slots: Sequence[str]) -> dict[str, str]:
    """The slots that ask a prompted recogniser for speakers."""
    return {DIARIZE: "yes"} if DIARIZE in slots else {}
