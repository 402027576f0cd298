"""What becomes of a decoder's answers before they are text: guards against made-up words, and times.

Shapes: B batch, T encoder frames, D width, U tokens, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from aronnax.collections.asr.canary.attention_times import token_frames
from aronnax.collections.asr.canary.marks import times_from_marks
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.common.audio.activity import speech_regions
from aronnax.core.errors import OptionError

if TYPE_CHECKING:
    from aronnax.collections.asr.canary.model import CanaryModel
    from aronnax.collections.asr.encoder import EncoderOutput

UNSURE = -0.7
"""Mean log-probability of tokens below which text over silence is taken for made up."""


def without_made_up(
    model: CanaryModel, hypotheses: Sequence[Hypothesis], signals: Sequence[np.ndarray]
) -> list[Hypothesis]:
    """The hypotheses, empty where nobody spoke.

    That is where the model wrote `<|nospeech|>`, and where it was unsure of what it wrote while the energy gate
    hears no speech in the signal [S].
    """
    return [
        Hypothesis() if _nobody_spoke(model, one, signal) else one for one, signal in zip(hypotheses, signals)
    ]


def _nobody_spoke(model: CanaryModel, hypothesis: Hypothesis, signal: np.ndarray) -> bool:
    if not hypothesis.tokens:
        return False
    if model.text.no_speech_id in hypothesis.tokens:
        return True
    unsure = sum(hypothesis.log_probs) < UNSURE * len(hypothesis.tokens)
    return unsure and not speech_regions(signal, model.sample_rate)


def with_times(
    model: CanaryModel,
    hypotheses: Sequence[Hypothesis],
    prompts: Sequence[Sequence[int]],
    encoded: EncoderOutput,
    signals: Sequence[np.ndarray],
    alignable: Sequence[bool],
) -> list[Hypothesis]:
    """The hypotheses with a frame and a duration for every token; signals are each row's samples [S].

    Times that the model wrote come first; then those of the aligner, where the checkpoint has one and the row is
    `alignable`; then those of cross-attention.
    """
    marks = model.text.frame_ids
    timed: list[Hypothesis | None] = [
        times_from_marks(one.tokens, marks, one.confidences, one.score)
        if any(token in marks for token in one.tokens)
        else None
        for one in hypotheses
    ]
    if model.aligner is not None:
        for row, one in enumerate(hypotheses):
            if timed[row] is None and one.tokens and alignable[row]:
                timed[row] = _aligned(model, one, signals[row])
    left = [row for row, one in enumerate(timed) if one is None]
    if left:
        found = _attended(
            model, [hypotheses[row] for row in left], [prompts[row] for row in left], encoded, left
        )
        for row, one in zip(left, found):
            timed[row] = one
    return [one for one in timed if one is not None]


def _attended(
    model: CanaryModel,
    hypotheses: Sequence[Hypothesis],
    prompts: Sequence[Sequence[int]],
    encoded: EncoderOutput,
    rows: Sequence[int],
) -> list[Hypothesis]:
    """Times from what the decoder looked at while it wrote each token: one pass over all of them."""
    states, lengths = encoded.states[list(rows)], encoded.lengths[list(rows)]
    written = [len(one.tokens) for one in hypotheses]
    if not max(written):
        return [replace(one, frames=[], durations=[]) for one in hypotheses]
    # A token is written while the one before it is read, so the last one is not read at all.
    read = [[*prompt, *one.tokens][:-1] for prompt, one in zip(prompts, hypotheses)]
    width = max(map(len, read))
    tokens = torch.tensor([[*row, *[model.text.pad_id] * (width - len(row))] for row in read])
    seen = model.transf_decoder.alignment(tokens.to(states.device), states, lengths)
    first = torch.tensor([len(prompt) - 1 for prompt in prompts], device=states.device)
    place = (first[:, None] + torch.arange(max(written), device=states.device)).clamp(max=width - 1)
    answers = [
        layer.gather(2, place[:, None, :, None].expand(-1, layer.shape[1], -1, layer.shape[3]))
        for layer in seen
    ]
    times = token_frames(answers, torch.tensor(written, device=states.device), lengths)
    return [
        replace(one, frames=starts, durations=lasting) for one, (starts, lasting) in zip(hypotheses, times)
    ]


def _aligned(model: CanaryModel, hypothesis: Hypothesis, signal: np.ndarray) -> Hypothesis | None:
    """Times by forced alignment of the text with the aligner; None where it cannot say the text."""
    from aronnax.collections.asr.alignment import align

    assert model.aligner is not None, "the caller has looked"
    spoken = [row for row in _words(model, hypothesis) if model.text.decode(row[1])]
    text = " ".join(model.text.decode(tokens) for _, tokens in spoken)
    try:
        found = align(model.aligner, (signal, model.sample_rate), text, chunk="full").words
    except OptionError:
        return None
    if len(found) != len(spoken):
        return None
    frames, durations = [0] * len(hypothesis.tokens), [0] * len(hypothesis.tokens)
    seconds = model.samples_per_frame / model.sample_rate
    for word, (place, tokens) in zip(found, spoken):
        start, stop = round(word.start / seconds), round(word.end / seconds)
        for index in range(len(tokens)):
            begin = start + (stop - start) * index // len(tokens)
            frames[place + index] = begin
            durations[place + index] = start + (stop - start) * (index + 1) // len(tokens) - begin
    for index in range(1, len(frames)):
        frames[index] = max(frames[index], frames[index - 1])
    return replace(hypothesis, frames=frames, durations=durations)


def _words(model: CanaryModel, hypothesis: Hypothesis) -> list[tuple[int, list[int]]]:
    """Words of a hypothesis: the place of the first token, and the tokens."""
    words: list[tuple[int, list[int]]] = []
    for place, token in enumerate(hypothesis.tokens):
        if not words or model.text.starts_word(token):
            words.append((place, []))
        words[-1][1].append(token)
    return words
