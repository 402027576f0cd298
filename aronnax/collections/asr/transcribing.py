"""From inputs to transcripts: opened ahead, batched by length, heard by the one engine.

Everything here lives in the call: neither the model nor any module-level state is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.inputs import Source, is_single, sources
from aronnax.collections.asr.long_form import memory, plan
from aronnax.collections.asr.long_form.engine import (
    Heard,
    Request,
    Row,
    Settings,
    hear_rows,
    hear_stream,
)
from aronnax.collections.asr.long_form.piecewise import hear_pieces
from aronnax.collections.asr.long_form.plan import Plan
from aronnax.collections.asr.reading_ahead import Failed, Group, Opened, batches, groups, in_thread, opened
from aronnax.collections.asr.words import segments_of
from aronnax.collections.common.calls import at_least_one, check_known, check_mode
from aronnax.collections.common.free_memory import free_bytes
from aronnax.collections.common.results import Transcript, Word
from aronnax.core.errors import AronnaxError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer

logger = logging.getLogger(__name__)

CONFIDENCES = ("auto", "tsallis", "max_prob", None)
GATES = ("energy", "silero", None)

PAUSE_SECONDS = 1.0
"""Silences shorter than this are decoded with the speech around them, which keeps its context."""


@dataclass(frozen=True)
class Options:
    """The keywords of `transcribe`, checked."""

    batch_size: int
    """Recordings encoded together."""
    head: str
    """Which of the model's heads decodes."""
    timestamps: bool
    """Whether words and segments are made."""
    confidence: str | None
    """How sure the model is of a word: "tsallis", "max_prob", or None for not at all."""
    chunk: str | float
    """How long recordings are read: "auto", "full", "local", or seconds of a chunk."""
    vad: str | None
    """What finds the speech that alone is decoded: "energy", "silero", or None for all of it."""
    sample_rate: int | None
    """Samples a second of bare arrays and tensors."""
    language: str | None
    """Written to the result."""
    progress: Callable[[float], None] | None
    """Called with the seconds of audio finished since the last call."""
    request: Request | None = None
    """What a model that takes prompts is asked."""

    @classmethod
    def checked(cls, model: SpeechRecognizer, *, head: str | None, **given: Any) -> Options:
        """The options of a call; OptionError names the one the model cannot honour."""
        check_mode(model)
        if model.tokenizer is None:
            raise OptionError("the model has no tokenizer, so its tokens cannot be turned into text")
        options = cls(head=model.choose_head(head), **given)
        at_least_one("batch_size", options.batch_size)
        check_known("confidence", options.confidence, CONFIDENCES)
        if options.confidence == "auto":
            options = replace(options, confidence=model.own_confidence)
        check_known("vad", options.vad, GATES)
        plan.check_chunk(options.chunk)
        languages = getattr(model.tokenizer, "languages", ())
        if options.language is not None and languages:
            check_known("language", options.language, languages)
        return options

    @property
    def settings(self) -> Settings:
        """The part of them that the engine needs."""
        return Settings(self.batch_size, self.head, self.confidence, self.request)


@dataclass(frozen=True)
class Result:
    """What became of one input: a transcript, or the error that stands in its place."""

    index: int
    source: str | None
    transcript: Transcript | None = None
    error: AronnaxError | None = None
    encoded_seconds: float = 0.0
    """Seconds of signal that went through the encoder for it, padding and overlap counted."""


def transcribe_each(model: SpeechRecognizer, x: Any, options: Options) -> Generator[Result, None, None]:
    """A result for every recording of an input, as they finish; `index` counts recordings in input order."""
    found = sources(x, options.sample_rate)
    ready = groups(opened(found, partial(_open, model, options)), options.batch_size)
    with closing(ready if is_single(x) else in_thread(ready)) as read:
        for group in read:
            yield from _hear_group(model, group, options)


def collect(x: Any, results: Generator[Result, None, None]) -> Transcript | list[Transcript]:
    """The transcript of an input that is one recording, or a list of them; raises the first error there is."""
    found: dict[int, Transcript] = {}
    with closing(results):
        for result in results:
            if result.error is not None:
                raise result.error
            assert result.transcript is not None, "a result has a transcript or an error"
            found[result.index] = result.transcript
    return found[0] if is_single(x) else [found[index] for index in sorted(found)]


def _open(model: SpeechRecognizer, options: Options, index: int, source: Source) -> Opened:
    asked = None if options.request is None else options.request.ask(source)
    stream = source.open(model.sample_rate)
    chosen = _plan(model, stream.samples, options)
    logger.info("%s: %s", source.name or "array", chosen.reason)
    whole = chosen.kind == "full" and options.vad is None
    if not whole and stream.samples >= model.samples_per_frame:
        return Opened(index, source, stream, chosen, None, asked)
    signal = stream.read(0, stream.samples)
    stream.close()
    return Opened(index, source, stream, chosen, signal, asked)


def _hear_group(model: SpeechRecognizer, group: Group, options: Options) -> Iterator[Result]:
    """Results of one group: what failed, then batches of short recordings, then the long ones."""
    for item in group:
        if isinstance(item, Failed):
            yield Result(item.index, item.name, error=item.error)
    recordings = [item for item in group if isinstance(item, Opened)]
    short = [recording for recording in recordings if recording.signal is not None]
    for batch in batches(short, options.batch_size, partial(_rows_that_fit, model)):
        yield from _hear_batch(model, batch, options)
    for recording in recordings:
        if recording.signal is None:
            yield _hear_long(model, recording, options)


def _hear_batch(model: SpeechRecognizer, batch: list[Opened], options: Options) -> Iterator[Result]:
    audible = [recording for recording in batch if recording.samples >= model.samples_per_frame]
    rows = [
        Row(recording.signal, 0, recording.asked) for recording in audible if recording.signal is not None
    ]
    heard = hear_rows(model, rows, options.settings) if rows else []
    by_index = {recording.index: one for recording, one in zip(audible, heard)}
    for recording in batch:
        one = by_index.get(recording.index)
        notes = [f"shorter than one frame of the model ({model.samples_per_frame} samples)"]
        if one is not None:
            notes = [recording.plan.note] if recording.plan.note else []
        if options.progress is not None:
            options.progress(recording.samples / model.sample_rate)
        yield _result(model, recording, [one] if one else [], options, notes)


def _hear_long(model: SpeechRecognizer, recording: Opened, options: Options) -> Result:
    """A recording read by itself: in chunks, with local attention, or only where there is speech."""
    try:
        if options.vad is not None:
            heard, notes = _hear_speech(model, recording, options)
        elif recording.plan.piece is not None:
            heard = [_hear_in_pieces(model, recording, [(0, recording.samples)], options)]
            notes = [recording.plan.reason]
        else:
            rows = _rows_at_once(model, recording.plan, options)
            heard = [
                hear_stream(
                    model,
                    recording.stream,
                    recording.plan,
                    options.settings,
                    rows_at_once=rows,
                    asked=recording.asked,
                    progress=options.progress,
                )
            ]
            notes = [recording.plan.note] if recording.plan.note else []
    except AronnaxError as error:
        return Result(recording.index, recording.name, error=error)
    finally:
        recording.stream.close()
    return _result(model, recording, heard, options, notes)


def _hear_speech(
    model: SpeechRecognizer, recording: Opened, options: Options
) -> tuple[list[Heard], list[str]]:
    """Hypotheses of the stretches in which the gate hears speech; the others are not decoded."""
    assert options.vad is not None, "without a gate everything is heard"
    spoken = 0
    reasons: list[str] = []

    def counted() -> Iterator[tuple[int, int]]:
        nonlocal spoken
        for start, stop in _spans(recording.stream, options.vad, model.samples_per_frame):
            spoken += stop - start
            yield start, stop

    heard: list[Heard] = []
    spans = counted()
    if model.longest_seconds is not None:
        heard.append(_hear_in_pieces(model, recording, spans, options))
        reasons = [recording.plan.note] if recording.plan.note else []
    while batch := list(islice(spans, options.batch_size)):
        plans = [_plan(model, stop - start, options) for start, stop in batch]
        heard.extend(_hear_spans(model, recording, batch, plans, options))
        reasons.extend(chosen.reason for chosen in plans if chosen.note and chosen.reason not in reasons)
    share = spoken / recording.samples
    if options.progress is not None:
        options.progress((recording.samples - spoken) / model.sample_rate)
    return heard, [f"voice activity gate {options.vad!r}: {share:.0%} of the recording decoded", *reasons]


def _hear_in_pieces(
    model: SpeechRecognizer, recording: Opened, spans: Iterable[tuple[int, int]], options: Options
) -> Heard:
    return hear_pieces(
        model,
        recording.stream,
        spans,
        recording.plan.piece,
        options.settings,
        asked=recording.asked,
        progress=options.progress,
    )


def _hear_spans(
    model: SpeechRecognizer,
    recording: Opened,
    spans: list[tuple[int, int]],
    plans: list[Plan],
    options: Options,
) -> Iterator[Heard]:
    """Spans in order, those that are read at once in one batch when they fit together."""
    stream, asked = recording.stream, recording.asked
    longest = max(stop - start for start, stop in spans)
    together = all(chosen.kind == "full" for chosen in plans)
    if together and _rows_that_fit(model, longest) >= len(spans):
        rows = [Row(stream.read(start, stop), start, asked) for start, stop in spans]
        yield from hear_rows(model, rows, options.settings)
        if options.progress is not None:
            options.progress(sum(len(row.signal) for row in rows) / model.sample_rate)
        return
    for (start, stop), chosen in zip(spans, plans):
        yield hear_stream(
            model,
            stream,
            chosen,
            options.settings,
            rows_at_once=_rows_at_once(model, chosen, options),
            start=start,
            stop=stop,
            asked=asked,
            progress=options.progress,
        )


def _plan(model: SpeechRecognizer, samples: int, options: Options) -> Plan:
    if model.longest_seconds is not None:
        return plan.choose_pieces(model.config, samples, model.longest_seconds, options.chunk)
    return plan.choose(
        model.config,
        samples,
        chunk=options.chunk,
        needed_bytes=_pass_bytes(model, samples),
        free_bytes=free_bytes(model.device),
    )


def _spans(stream: Any, gate: Any, samples_per_frame: int) -> Iterator[tuple[int, int]]:
    """Samples [start, stop) in which a gate hears speech, in order; each starts with a frame."""
    from aronnax.collections.common.audio.activity import ActivityConfig, speech_regions

    # Padded so far, no stretch is short of the second below which the engine would put silence around it.
    config = ActivityConfig(min_silence=PAUSE_SECONDS, padding=PAUSE_SECONDS / 2)
    for start, stop in speech_regions(stream, detector=gate, config=config):
        yield start - start % samples_per_frame, stop


def _result(
    model: SpeechRecognizer, recording: Opened, heard: list[Heard], options: Options, notes: list[str]
) -> Result:
    if any(one.cut_short for one in heard):
        notes = [*notes, "cut short: the decoder wrote as many tokens as it may, which loops do too"]
    transcript = _transcript(model, recording, heard, options, notes)
    encoded = sum(one.encoded for one in heard) / model.sample_rate
    return Result(recording.index, recording.name, transcript, encoded_seconds=encoded)


def _transcript(
    model: SpeechRecognizer, recording: Opened, heard: list[Heard], options: Options, notes: list[str]
) -> Transcript:
    tokenizer = model.tokenizer
    assert tokenizer is not None  # checked with the options
    texts = [tokenizer.decode(one.hypothesis.tokens) for one in heard]
    words: list[Word] = []
    if options.timestamps:
        words = [word for one in heard for word in model.words(one.hypothesis, one.clock)]
    asked = None if recording.asked is None else recording.asked.language
    return Transcript(
        text=" ".join(text for text in texts if text),
        duration=recording.samples / model.sample_rate,
        words=tuple(words),
        segments=tuple(segments_of(words)),
        model=model.source,
        source=recording.name,
        language=asked or options.language or recording.source.language,
        notes=tuple(notes),
    )


def _rows_at_once(model: SpeechRecognizer, chosen: Plan, options: Options) -> int:
    """Windows of a long recording that are encoded together."""
    if chosen.windows is None:
        return 1
    return min(options.batch_size, _rows_that_fit(model, chosen.windows.samples))


def _rows_that_fit(model: SpeechRecognizer, samples: int) -> int:
    """How many rows of so many samples can be encoded in the memory that is free now; at least one."""
    free = plan.SHARE_OF_MEMORY * free_bytes(model.device)
    return max(int(free // max(_pass_bytes(model, samples), 1)), 1)


def _pass_bytes(model: SpeechRecognizer, samples: int) -> int:
    return memory.pass_bytes(model.config, samples / model.sample_rate, model.dtype.itemsize)
