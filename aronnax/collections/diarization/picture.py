"""A picture of a diarization: the waveform under each speaker's colour, and a lane for each of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from aronnax.core.errors import MissingExtraError

if TYPE_CHECKING:
    from aronnax.collections.asr.inputs import Stream
    from aronnax.collections.common.results import Diarization

INK, FAINT = "#1b2a41", "#8fa3b8"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#5b5b5b")
COLUMNS = 1600
"""Steps in which the waveform is drawn."""
READ_SECONDS = 30.0
STEPS = (15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 86400, 10**6)
"""Seconds between the marks of long recordings."""


def draw(diarization: Diarization, audio: Stream) -> bytes:
    """A PNG of who speaks when in `audio`, which is read in pieces, so that its length costs no memory.

    Above, the waveform, coloured by who speaks; below, a lane a speaker with the turns and, where they are known,
    the probabilities. Raises MissingExtraError where matplotlib is not installed.
    """
    figure_class, canvas = _matplotlib()
    speakers = sorted(diarization.speakers, key=lambda name: _place(diarization, name))
    lanes = max(len(speakers), 1)
    duration = max(diarization.duration, 1e-3)
    size = (min(max(6.0, 0.18 * duration + 3), 16.0), 1.9 + 0.55 * lanes)
    figure = figure_class(figsize=size, dpi=120, layout="constrained")
    canvas(figure)
    wave, lane = figure.subplots(2, 1, sharex=True, height_ratios=(1.4, 0.55 * lanes))
    _draw_wave(wave, diarization, speakers, envelope(audio), duration)
    _draw_lanes(lane, diarization, speakers)
    for axes in (wave, lane):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=INK, length=0, axis="y")
    if duration >= 120:
        lane.set_xticks(np.arange(0, duration + 1e-6, next(step for step in STEPS if duration / step <= 12)))
    lane.xaxis.set_major_formatter(lambda seconds, _: _clock(seconds, duration))
    lane.set_xlabel("seconds" if duration < 120 else "minutes" if duration < 3600 else "hours", color=INK)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def check_drawing() -> None:
    """MissingExtraError where there is nothing to draw with."""
    _matplotlib()


def envelope(audio: Stream, columns: int = COLUMNS) -> np.ndarray:
    """The lowest and highest sample [C, 2] of each of at most `columns` equal parts of a recording."""
    columns = min(columns, audio.samples)
    bounds = np.linspace(0, audio.samples, columns + 1).astype(np.int64)
    together = max(int(READ_SECONDS * audio.sample_rate * columns / max(audio.samples, 1)), 1)
    found = [np.zeros((0, 2), np.float32)]
    for first in range(0, columns, together):
        last = min(first + together, columns)
        samples = audio.read(int(bounds[first]), int(bounds[last]))
        places = bounds[first:last] - bounds[first]
        found.append(
            np.stack([np.minimum.reduceat(samples, places), np.maximum.reduceat(samples, places)], 1)
        )
    return np.concatenate(found)


def _place(diarization: Diarization, name: str) -> int:
    """The lane of a speaker: the column of the probabilities, or the order of arrival."""
    names = diarization.names or diarization.speakers
    return names.index(name) if name in names else len(names)


def _draw_wave(
    axes: Any, diarization: Diarization, speakers: list[str], wave: np.ndarray, duration: float
) -> None:
    if len(wave):
        middles = (np.arange(len(wave)) + 0.5) * duration / len(wave)
        axes.fill_between(middles, wave[:, 0], wave[:, 1], color=FAINT, linewidth=0)
        for number, name in enumerate(speakers):
            speaks = np.zeros(len(wave), bool)
            for turn in diarization.turns:
                if turn.speaker == name:
                    speaks |= (middles >= turn.start) & (middles < turn.end)
            colour = COLOURS[number % len(COLOURS)]
            axes.fill_between(
                middles, wave[:, 0], wave[:, 1], where=speaks, color=colour, alpha=0.75, linewidth=0
            )
    loudest = max(float(np.abs(wave).max()) if len(wave) else 0.0, 1e-3)
    axes.set(xlim=(0, duration), ylim=(-1.1 * loudest, 1.1 * loudest), yticks=[])
    axes.set_title(diarization.source or "", loc="left", fontsize=10, color=INK)
    axes.tick_params(labelbottom=False, length=0)


def _draw_lanes(axes: Any, diarization: Diarization, speakers: list[str]) -> None:
    for number, name in enumerate(speakers):
        colour = COLOURS[number % len(COLOURS)]
        bars = [(turn.start, turn.duration) for turn in diarization.turns if turn.speaker == name]
        axes.broken_barh(bars, (number + 0.12, 0.7), color=colour, alpha=0.45, linewidth=0)
        if diarization.probabilities is not None and diarization.frame_seconds and name in diarization.names:
            row = diarization.probabilities[:, diarization.names.index(name)]
            times = (np.arange(len(row)) + 0.5) * diarization.frame_seconds
            axes.plot(times, number + 0.82 - 0.7 * row, color=colour, linewidth=0.9)
    axes.set(ylim=(max(len(speakers), 1), 0))
    axes.set_yticks([number + 0.47 for number in range(len(speakers))], speakers, fontsize=9)
    if not speakers:
        axes.text(0.5, 0.5, "nobody speaks", transform=axes.transAxes, ha="center", va="center", color=INK)


def _clock(seconds: float, duration: float) -> str:
    if duration < 120:
        return f"{seconds:g}"
    minutes, rest = divmod(round(seconds), 60)
    if duration < 3600:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "drawing a diarization") from error
    return Figure, FigureCanvasAgg
