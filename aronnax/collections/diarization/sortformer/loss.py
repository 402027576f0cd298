"""Losses of Sortformer: speakers sorted by arrival, permutation-invariant, and both (arXiv 2409.06656, section 3).

`B` rows, `T` frames, `N` speakers.
"""

from __future__ import annotations

from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.core.errors import MissingExtraError, OptionError

ACTIVE = 0.5
"""Labels of at least this count as speech."""
ENUMERATED = 4
"""With more speakers than this the assignment solver searches the permutations (4! are tried all at once)."""

Criterion = Literal["match", "cost"]


class DiarizationLosses(NamedTuple):
    """The hybrid loss and its parts, all scalars."""

    loss: Tensor
    sort: Tensor
    pil: Tensor


def sorted_targets(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Labels [B, T, N] with the speakers in the order of their first active frame; the absent ones last.

    Speakers who begin in the same frame are ordered so that they match `probabilities` [B, T, N] best, which is
    the sum of label times probability; among equal matches the earlier permutation wins.
    """
    arrival = first_active(labels)
    speakers = labels.shape[2]
    tied = arrival[:, :, None] == arrival.sort(1).values[:, None, :]  # [B, speaker, place]
    if speakers <= ENUMERATED:
        orders = _orders(speakers, labels.device)
        allowed = _per_order(tied, orders).all(2)
        order = _best_order(_match(labels, probabilities), orders, allowed)
    else:
        order = _assigned(_match(labels, probabilities), tied)
    return _reordered(labels, order)


def matched_targets(
    labels: Tensor, probabilities: Tensor, lengths: Tensor, criterion: Criterion = "match"
) -> Tensor:
    """Labels [B, T, N] with the speakers in the order that fits `probabilities` [B, T, N] best.

    "match" takes the largest sum of label times probability, as the reference does; "cost" the smallest
    cross-entropy over the valid frames `lengths` [B], which is the true permutation-invariant loss.
    """
    if criterion not in ("match", "cost"):
        raise OptionError(f"criterion={criterion!r} is not known: use 'match' or 'cost'")
    gain = _match(labels, probabilities) if criterion == "match" else -_cost(labels, probabilities, lengths)
    if labels.shape[2] <= ENUMERATED:
        order = _best_order(gain, _orders(labels.shape[2], labels.device))
    else:
        order = _assigned(gain)
    return _reordered(labels, order)


def activity_loss(probabilities: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities and targets [B, T, N] with lengths [B] in frames.

    It is the mean over the speakers and the valid frames of all rows together.
    """
    valid = valid_frames(lengths, probabilities.shape[1])[:, :, None]
    kept = probabilities.masked_fill(~valid, 0.5)
    entropy = F.binary_cross_entropy(kept, targets.to(probabilities.dtype), reduction="none") * valid
    return entropy.sum() / (valid.sum() * probabilities.shape[2]).clamp(min=1)


def diarization_losses(
    probabilities: Tensor,
    labels: Tensor,
    lengths: Tensor,
    *,
    sort_weight: float = 0.5,
    pil_weight: float = 0.5,
    criterion: Criterion = "match",
) -> DiarizationLosses:
    """The hybrid loss of probabilities [B, T, N] against labels [B, T, N] over `lengths` [B] frames.

    The weights are scaled to sum to 1. Labels longer than the probabilities are cut.
    """
    total = sort_weight + pil_weight
    if min(sort_weight, pil_weight) < 0 or total <= 0:
        raise OptionError(f"weights {sort_weight} and {pil_weight} must not be negative, nor both 0")
    frames = probabilities.shape[1]
    labels, lengths = labels[:, :frames].to(probabilities.dtype), lengths.clamp(max=frames)
    known = probabilities.detach()
    # What lies in the padding takes no part in choosing an order.
    labels = labels * valid_frames(lengths, labels.shape[1])[:, :, None]
    sort = activity_loss(probabilities, sorted_targets(labels, known), lengths)
    pil = activity_loss(probabilities, matched_targets(labels, known, lengths, criterion), lengths)
    return DiarizationLosses((sort_weight * sort + pil_weight * pil) / total, sort, pil)


def first_active(labels: Tensor) -> Tensor:
    """The first frame [B, N] in which each speaker of labels [B, T, N] is active; T if never."""
    active = labels >= ACTIVE
    frames = torch.arange(labels.shape[1], device=labels.device)[:, None]
    return torch.where(active, frames, labels.shape[1]).amin(1) if labels.shape[1] else active.sum(1)


def _orders(speakers: int, device: torch.device) -> Tensor:
    """All permutations [P, N] in lexicographic order."""
    return torch.tensor(list(permutations(range(speakers))), device=device)


def _match(labels: Tensor, probabilities: Tensor) -> Tensor:
    """[B, speaker, place]: how well each speaker's labels match each output."""
    return labels.transpose(1, 2) @ probabilities


def _cost(labels: Tensor, probabilities: Tensor, lengths: Tensor) -> Tensor:
    """[B, speaker, place]: cross-entropy of each output against each speaker's labels, summed over time."""
    valid = valid_frames(lengths, labels.shape[1])[:, :, None]
    speaking = probabilities.log().clamp(min=-100) * valid
    quiet = (1 - probabilities).log().clamp(min=-100) * valid
    return -(labels.transpose(1, 2) @ speaking + (1 - labels).transpose(1, 2) @ quiet)


def _per_order(table: Tensor, orders: Tensor) -> Tensor:
    """table [B, speaker, place] -> [B, P, place], the entries that each order takes."""
    places = torch.arange(orders.shape[1], device=orders.device)
    return table[:, orders, places]


def _best_order(gain: Tensor, orders: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The order [B, N] of the largest total gain; among equals the first."""
    total = _per_order(gain, orders).sum(2)
    if allowed is not None:
        total = total.masked_fill(~allowed, -torch.inf)
    return orders[total.argmax(1)]


def _assigned(gain: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The same by the Hungarian method, whose time grows with N^3 and not with N!."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("scipy", "train", f"training with more than {ENUMERATED} speakers") from None

    table = gain.detach().double().cpu().numpy().transpose(0, 2, 1)
    if allowed is not None:
        # Beyond what all the gains of a row can make up for.
        forbidden = np.abs(table).sum((1, 2), keepdims=True) + 1.0
        table = np.where(allowed.cpu().numpy().transpose(0, 2, 1), table, -forbidden * table.shape[1])
    order = np.stack([linear_sum_assignment(row, maximize=True)[1] for row in table])
    return torch.from_numpy(order).to(gain.device)


def _reordered(labels: Tensor, order: Tensor) -> Tensor:
    return torch.gather(labels, 2, order[:, None].expand_as(labels))
