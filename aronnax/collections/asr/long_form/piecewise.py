"""Long recordings for models that hear short ones: cut into pieces, heard in batches, joined to one hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.long_form.cuts import Piece, pieces_of
from aronnax.collections.asr.long_form.engine import Heard, Row, Settings, hear_rows
from aronnax.collections.asr.long_form.joining import Part, joined
from aronnax.collections.asr.words import Clock

if TYPE_CHECKING:
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.asr.inputs import Stream
    from aronnax.collections.asr.recognizer import SpeechRecognizer


def hear_pieces(
    model: SpeechRecognizer,
    stream: Stream,
    spans: Iterable[tuple[int, int]],
    longest: int | None,
    settings: Settings,
    *,
    asked: Any = None,
    progress: Callable[[float], None] | None = None,
) -> Heard:
    """One hypothesis for the samples [start, stop) of all spans, in pieces of at most `longest` samples.

    Spans begin at whole encoder frames. `longest` None hears each span at once.
    """
    frame, rate = model.samples_per_frame, model.sample_rate
    pieces = chain.from_iterable(
        [Piece(start, stop, start, stop)]
        if longest is None
        else pieces_of(stream, longest / rate, frame, start, stop)
        for start, stop in spans
    )
    parts: list[Part] = []
    encoded, cut_short = 0, False
    while batch := list(islice(pieces, settings.batch_size)):
        rows = [Row(stream.read(piece.start, piece.stop), piece.start, asked) for piece in batch]
        for piece, heard in zip(batch, hear_rows(model, rows, settings)):
            encoded += heard.encoded
            cut_short = cut_short or heard.cut_short
            parts.append(Part(_moved(heard, frame), piece.first // frame, -(-piece.last // frame)))
        if progress is not None:
            progress(sum(piece.last - piece.first for piece in batch) / rate)
    return Heard(joined(parts), Clock(frame, rate, 0, stream.samples), encoded, cut_short)


def _moved(heard: Heard, frame: int) -> Hypothesis:
    """The hypothesis with frames that count from the beginning of the recording."""
    first = round(heard.clock.offset / frame)
    return replace(heard.hypothesis, frames=[max(first + one, 0) for one in heard.hypothesis.frames])
