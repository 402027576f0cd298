"""Greedy CTC decoding of a whole batch at once. `B` batch, `T` frames, `V` vocabulary, blank = V."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.common.nn.confidence import check_measure, confidence


@dataclass(frozen=True)
class CTCCarry:
    """What the next call needs to go on where this one stopped."""

    last: Tensor
    """Most probable class [B] of the last frame, blank included."""
    prolonged: Tensor
    """Frames [B] at the start of the call just made in which the last token of earlier calls still went on."""


def ctc_greedy(
    log_probs: Tensor, lengths: Tensor, *, confidence: str | None = "tsallis", carry: CTCCarry | None = None
) -> tuple[list[Hypothesis], CTCCarry]:
    """Best class of every frame of `log_probs` [B, T, V+1], runs joined and blanks left out.

    A token lasts as long as its run of frames. Its confidence is the smallest of the run. When a sequence is
    decoded in pieces a run may cross the border: the carry's `prolonged` says by how much.
    """
    check_measure(confidence)
    batch, frames, classes = log_probs.shape
    blank = classes - 1
    if carry is None:
        zeros = torch.zeros(batch, dtype=torch.long, device=log_probs.device)
        carry = CTCCarry(zeros + blank, zeros)
    scores, best = log_probs.max(dim=-1)
    valid = torch.arange(frames, device=best.device) < lengths[:, None]
    best = best.masked_fill(~valid, blank)
    before = torch.cat([carry.last[:, None], best[:, :-1]], dim=1)
    said = best != blank
    starts = said & (best != before)
    runs = starts.cumsum(dim=1)
    rows, frame = starts.nonzero(as_tuple=True)
    counts = starts.sum(dim=1).tolist()
    # Slot 0 of every row collects the frames that belong to a token of an earlier call.
    slot = runs.masked_fill(~said, 0)
    slots = max(counts, default=0) + 1
    lasting = said.new_zeros((batch, slots), dtype=torch.long).scatter_add_(1, slot, said.long())
    chosen = lasting[:, 1:][torch.arange(slots - 1, device=best.device) < runs[:, -1:]] if frames else rows
    tokens, frame_list = best[rows, frame].tolist(), frame.tolist()
    sureness = _smallest_of_runs(log_probs, slot, slots, counts, confidence) if confidence else []
    totals = scores.masked_fill(~said, 0.0).sum(dim=1).tolist()
    hypotheses, at = [], 0
    durations = chosen.tolist()
    for count, total in zip(counts, totals):
        span = slice(at, at + count)
        hypotheses.append(
            Hypothesis(tokens[span], frame_list[span], durations[span], sureness[span], float(total))
        )
        at += count
    final = best.gather(1, (lengths[:, None] - 1).clamp(min=0)).squeeze(1) if frames else carry.last
    last = torch.where(lengths > 0, final, carry.last)
    return hypotheses, CTCCarry(last, lasting[:, 0])


def _smallest_of_runs(
    log_probs: Tensor, slot: Tensor, slots: int, counts: list[int], measure: str
) -> list[float]:
    """Smallest confidence within each token's run, rows after another."""
    by_frame = confidence(log_probs, measure)
    smallest = by_frame.new_ones((len(counts), slots)).scatter_reduce_(1, slot, by_frame, "amin")
    inside = torch.arange(slots - 1, device=slot.device) < torch.tensor(counts, device=slot.device)[:, None]
    found: list[float] = smallest[:, 1:][inside].tolist()
    return found
