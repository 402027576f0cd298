"""A picture of a transcript: the log-mel spectrogram of the recording with its words above it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from aronnax.core.errors import MissingExtraError

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.results import Transcript

INK, FAINT = "#1b2a41", "#8fa3b8"


def draw(
    model: SpeechRecognizer, audio: np.ndarray, transcript: Transcript, path: str | Path, *, title: str = ""
) -> Path:
    """Draw what `model` sees of `audio` [S] (at the model's rate) and the words of `transcript`; write a PNG.

    Each word stands over its own time, the darker the surer the model is of it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "drawing a transcript") from error
    signal = torch.as_tensor(audio, dtype=torch.float32)[None]
    with torch.inference_mode():
        mel, _ = model.preprocessor(signal, torch.tensor([signal.shape[1]]))
    figure = Figure(figsize=(max(6.0, 1.8 * transcript.duration + 1), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    words, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    words.set(ylim=(0, 1), xlim=(0, transcript.duration))
    words.axis("off")
    words.set_title(title, loc="left", fontsize=10, color=INK)
    for word in transcript.words:
        words.axvspan(
            word.start, word.end, 0.05, 0.35, color=INK, alpha=0.15 + 0.7 * (word.confidence or 0.0)
        )
        label = word.text if word.confidence is None else f"{word.text}\n{100 * word.confidence:.0f} %"
        words.text((word.start + word.end) / 2, 0.45, label, ha="center", va="bottom", fontsize=9, color=INK)
    spectrum.imshow(
        mel[0].T.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, transcript.duration, 0, mel.shape[2]),
        cmap="magma",
        vmin=-2,
        vmax=2.5,
    )
    for word in transcript.words:
        for edge in (word.start, word.end):
            spectrum.axvline(edge, color=FAINT, linewidth=0.6)
    spectrum.set_xlabel("seconds")
    spectrum.set_ylabel("mel band")
    figure.savefig(Path(path))
    return Path(path)
