"""The one engine that turns signals into timed hypotheses: batches of rows, windows of a long recording.

Shapes: B batch, S samples, T encoder frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from aronnax.collections.asr.long_form.plan import Plan
from aronnax.collections.asr.long_form.windows import Window, windows_over
from aronnax.collections.asr.words import Clock

if TYPE_CHECKING:
    from aronnax.collections.asr.encoder import Attention, EncoderOutput
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.asr.inputs import Source, Stream
    from aronnax.collections.asr.recognizer import SpeechRecognizer

SHORTEST_SECONDS = 1.0
"""Shorter signals get silence on both sides up to this length, as NeMo does; their times are shifted back."""


class Request(Protocol):
    """What a call asks of a model that takes prompts."""

    def ask(self, source: Source) -> Any:
        """What is asked of one recording, with a `language` written; OptionError if that cannot be asked."""

    def keywords(self, asked: Sequence[Any]) -> dict[str, Any]:
        """Keywords of the model's `decode` for a batch whose rows were asked this."""

    def settled(
        self,
        hypotheses: list[Hypothesis],
        asked: Sequence[Any],
        encoded: EncoderOutput,
        signals: Sequence[np.ndarray],
    ) -> list[Hypothesis]:
        """The hypotheses of a batch as the caller wants them, checked, and timed; signals are its samples [S]."""


@dataclass(frozen=True)
class Settings:
    """What decoding needs to know of a call."""

    batch_size: int
    head: str
    confidence: str | None
    request: Request | None = None


@dataclass(frozen=True)
class Row:
    """A signal [S] that is encoded at once, the sample of its recording at which it begins, what is asked."""

    signal: np.ndarray
    offset: int = 0
    asked: Any = None


@dataclass(frozen=True)
class Heard:
    """A hypothesis, and the clock that turns its frames into samples of the recording."""

    hypothesis: Hypothesis
    clock: Clock
    encoded: int
    """Samples that went through the encoder for it, padding and context counted."""
    cut_short: bool = False
    """Whether the decoder was stopped before it came to an end."""


def hear_rows(
    model: SpeechRecognizer, rows: Sequence[Row], settings: Settings, attention: Attention | None = None
) -> list[Heard]:
    """One hypothesis a row; the rows are encoded and decoded as one batch, each as if it were alone."""
    padded = [_lengthened(row.signal, model.sample_rate) for row in rows]
    prompted = settings.request.keywords([row.asked for row in rows]) if settings.request else {}
    with torch.inference_mode():
        encoded = _encode(model, [signal for signal, _ in padded], attention)
        hypotheses, _ = model.decode(
            encoded.states, encoded.lengths, head=settings.head, confidence=settings.confidence, **prompted
        )
        cut_short = [hypothesis.cut_short for hypothesis in hypotheses]
        if settings.request:
            asked, signals = [row.asked for row in rows], [signal for signal, _ in padded]
            hypotheses = settings.request.settled(hypotheses, asked, encoded, signals)
    longest = max(len(signal) for signal, _ in padded)
    return [
        Heard(hypothesis, _clock(model, row.offset - silence, row.offset + len(row.signal)), longest, cut)
        for row, (_, silence), hypothesis, cut in zip(rows, padded, hypotheses, cut_short)
    ]


def hear_stream(
    model: SpeechRecognizer,
    stream: Stream,
    plan: Plan,
    settings: Settings,
    *,
    rows_at_once: int,
    start: int = 0,
    stop: int | None = None,
    asked: Any = None,
    progress: Callable[[float], None] | None = None,
) -> Heard:
    """One hypothesis for the samples [start, stop) of a recording, read as its plan says."""
    stop = stream.samples if stop is None else stop
    if plan.windows is None:
        row = Row(stream.read(start, stop), start, asked)
        (heard,) = hear_rows(model, [row], settings, plan.attention)
        _advance(progress, (stop - start) / model.sample_rate)
        return heard
    joined: Hypothesis | None = None
    carry: Any = None
    encoded = 0
    windows = windows_over(stop - start, plan.windows)
    while batch := list(islice(windows, rows_at_once)):
        signals = [stream.read(start + window.start, start + window.stop) for window in batch]
        encoded += len(signals) * max(map(len, signals))
        with torch.inference_mode():
            centres = _centres(_encode(model, signals, None), batch)
            lengths = torch.tensor([centres.shape[1]], device=centres.device)
            (hypothesis,), carry = model.decode(
                centres, lengths, head=settings.head, confidence=settings.confidence, carry=carry
            )
        if joined is None:
            joined = hypothesis
        else:
            _extend(joined, hypothesis, batch[0].first, carry)
        done = stop - start if batch[-1].keep is None else _end(batch[-1]) * plan.windows.samples_per_frame
        _advance(progress, (done - batch[0].first * plan.windows.samples_per_frame) / model.sample_rate)
    assert joined is not None, "a recording has at least one sample"
    return Heard(joined, _clock(model, start, stop), encoded)


def _encode(
    model: SpeechRecognizer, signals: Sequence[np.ndarray], attention: Attention | None
) -> EncoderOutput:
    lengths = torch.tensor([len(signal) for signal in signals])
    batch = torch.zeros(len(signals), int(lengths.max()))
    for row, signal in zip(batch, signals):
        row[: len(signal)] = torch.from_numpy(signal)
    return model.encode(batch.to(model.device), lengths.to(model.device), attention)


def _lengthened(signal: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """The signal with silence around it if it is very short, and how many samples of it stand before."""
    missing = round(SHORTEST_SECONDS * sample_rate) - len(signal)
    if missing <= 0:
        return signal, 0
    before = missing // 2
    return np.pad(signal, (before, missing - before)), before


def _centres(encoded: EncoderOutput, windows: Sequence[Window]) -> Tensor:
    """The centres of a batch of windows, one after the other: [1, T, D]."""
    lengths = encoded.lengths.tolist()
    kept = [
        states[window.skip : length if window.keep is None else window.skip + window.keep]
        for states, length, window in zip(encoded.states, lengths, windows)
    ]
    return torch.cat(kept)[None]


def _extend(whole: Hypothesis, following: Hypothesis, first: int, carry: Any) -> None:
    """Adds a hypothesis whose frames count from frame `first` of the whole."""
    prolonged = getattr(carry, "prolonged", None)
    if prolonged is not None and whole.durations:
        # A CTC token whose run of frames crosses the border goes on for so many frames.
        whole.durations[-1] += int(prolonged[0])
    whole.tokens.extend(following.tokens)
    whole.frames.extend(first + frame for frame in following.frames)
    whole.durations.extend(following.durations)
    whole.confidences.extend(following.confidences)
    whole.score += following.score


def _end(window: Window) -> int:
    return window.first + (window.keep or 0)


def _clock(model: SpeechRecognizer, offset: int, stop: int) -> Clock:
    return Clock(model.samples_per_frame, model.sample_rate, offset, stop)


def _advance(progress: Callable[[float], None] | None, seconds: float) -> None:
    if progress is not None:
        progress(seconds)
