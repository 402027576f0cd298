"""Sums over all alignments of a transducer, one anti-diagonal at a time.

Legend: `B` batch, `T` frames, `U` tokens, `U1 = U + 1`, `K` kinds of arc, `N = T + U1` anti-diagonals.

A lattice node (t, u) means "t frames consumed, u tokens emitted"; an alignment walks from (0, 0) to (T, U), the
last step being a blank that ends exactly at T. Arcs are described, not hard-wired, so RNN-T and TDT (any list of
durations) share one recursion. The backward variables are the forward variables of the lattice read from its end,
so both run in the same loop as one batch of 2B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

IMPOSSIBLE = -1e30
"""Log-probability of what cannot happen: finite, so that no difference of two of them is NaN."""


@dataclass(frozen=True)
class Arc:
    """One kind of step: it consumes `advance` frames and emits a token or (blank) none."""

    advance: int
    emits: bool


class Posteriors(NamedTuple):
    """Result of a lattice: `log_likelihood` [B] and, if asked for, `occupancy` [K, B, T, U1] of every arc."""

    log_likelihood: Tensor
    occupancy: Tensor | None


def transducer_arcs(durations: tuple[int, ...]) -> list[Arc]:
    """Arcs of RNN-T (no durations) or TDT, blanks first; a TDT blank never has duration 0."""
    if not durations:
        return [Arc(1, False), Arc(0, True)]
    return [Arc(d, False) for d in durations if d > 0] + [Arc(d, True) for d in durations]


def lattice(
    arcs: list[Arc], weights: Tensor, lengths: Tensor, target_lengths: Tensor, *, occupancy: bool = True
) -> Posteriors:
    """Log-likelihood of every row and the posterior probability of every arc.

    `weights` [K, B, T, U1] holds the log-probability of taking arc k out of node (t, u), in the order of `arcs`;
    `lengths` and `target_lengths` [B] are the frames and tokens of each row. A row without any alignment gets a
    log-likelihood of -inf and no occupancy.
    """
    weights = _mask(arcs, weights, lengths, target_lengths)
    n_arcs, batch, frames, columns = weights.shape
    skewed = weights.new_full(
        (frames + columns, n_arcs, batch * (2 if occupancy else 1), columns), IMPOSSIBLE
    )
    for k, arc in enumerate(arcs):
        source = weights[k, :, : max(frames + 1 - arc.advance, 0), : columns - arc.emits]
        _place(skewed[:, k, :batch], arc.advance, int(arc.emits), source)
        if occupancy:
            _place(skewed[:, k, batch:], 1, 0, _reverse(weights[k], 1, lengths, target_lengths))
    alphas = _recursion(arcs, skewed)
    rows = torch.arange(batch, device=weights.device)
    log_likelihood = alphas[lengths + target_lengths, rows, target_lengths]
    impossible = log_likelihood < IMPOSSIBLE / 2
    total = log_likelihood.masked_fill(impossible, -torch.inf)
    if not occupancy:
        return Posteriors(total, None)
    reach = max(arc.advance for arc in arcs)
    backward = weights.new_full((batch, frames + 1 + reach, columns + 1), IMPOSSIBLE)
    read_back = _cells(alphas[:, batch:], 0, 0, frames + 1, columns)
    backward[:, : frames + 1, :columns] = _reverse(read_back, 0, lengths, target_lengths)
    for k, arc in enumerate(arcs):
        weights[k] += backward[:, arc.advance : arc.advance + frames, arc.emits : arc.emits + columns]
    weights += _cells(alphas[:, :batch], 0, 0, frames, columns) - log_likelihood.view(-1, 1, 1)
    posterior = weights.clamp_(max=0.0).exp_()
    return Posteriors(total, posterior.masked_fill_(impossible.view(-1, 1, 1), 0.0))


def _mask(arcs: list[Arc], weights: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Copy of `weights` in which arcs that leave the row's lattice are impossible."""
    dtype = torch.float32 if weights.device.type == "mps" else torch.float64
    weights = weights.to(dtype, copy=True).clamp_(min=IMPOSSIBLE)
    _, _, frames, columns = weights.shape
    t = torch.arange(frames, device=weights.device).view(-1, 1)
    u = torch.arange(columns, device=weights.device)
    left = lengths.view(-1, 1, 1) - t
    missing = target_lengths.view(-1, 1, 1) - u
    for k, arc in enumerate(arcs):
        # A token may not end the row: at least one frame and one token must be left for it.
        spare = int(arc.emits)
        outside = (left < arc.advance + spare) | (missing < spare)
        weights[k].masked_fill_(outside, IMPOSSIBLE)
    return weights


def _cells(skewed: Tensor, t: int, u: int, frames: int, columns: int) -> Tensor:
    """View [B, frames, columns] of `skewed` [N, B, U1]; element (i, j) is on diagonal t+i + u+j, column u+j."""
    by_diagonal, by_row, by_column = skewed.stride()
    offset = skewed.storage_offset() + (t + u) * by_diagonal + u * by_column
    strides = (by_row, by_diagonal, by_diagonal + by_column)
    return skewed.as_strided((skewed.shape[1], frames, columns), strides, offset)


def _place(skewed: Tensor, t: int, u: int, cells: Tensor) -> None:
    """Write `cells` [B, rows, cols] into `skewed` [N, B, U1] from node (t, u) on."""
    if cells.numel():
        _cells(skewed, t, u, cells.shape[1], cells.shape[2]).copy_(cells)


def _reverse(cells: Tensor, first: int, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """`cells` [B, R, C] read from each row's end: element (i, j) is cells[length - first - i, target_length - j]."""
    _, rows, columns = cells.shape
    row = lengths.view(-1, 1, 1) - torch.arange(first, first + rows, device=cells.device).view(-1, 1)
    column = target_lengths.view(-1, 1, 1) - torch.arange(columns, device=cells.device)
    inside = (row >= 0) & (column >= 0)
    index = (row * columns + column).masked_fill_(~inside, 0)
    read = cells.flatten(1).gather(1, index.flatten(1)).view_as(cells)
    return read.masked_fill_(~inside, IMPOSSIBLE)


def _recursion(arcs: list[Arc], skewed: Tensor) -> Tensor:
    """Forward variables [N, rows, U1] of the arcs' weights `skewed` [N, K, rows, U1], stored by arrival."""
    diagonals, n_arcs, rows, columns = skewed.shape
    blanks = [arc.advance for arc in arcs if not arc.emits]
    tokens = [arc.advance + 1 for arc in arcs if arc.emits]
    lead = max(blanks + tokens)
    # Column 0 is always impossible: a token arc into column u reads column u - 1 of the same storage.
    alphas = skewed.new_full((lead + diagonals, rows, columns + 1), IMPOSSIBLE)
    alphas[lead, :, 1] = 0.0
    from_blank = torch.tensor(blanks, device=skewed.device)
    from_token = torch.tensor(tokens, device=skewed.device)
    terms = skewed.new_empty((n_arcs, rows, columns))
    by_blank, by_token = terms[: len(blanks)], terms[len(blanks) :]
    simple = n_arcs == 2 and blanks == tokens == [1]
    for n in range(1, diagonals):
        here = lead + n
        if simple:
            before = alphas[here - 1]
            torch.add(before[:, 1:], skewed[n, 0], out=by_blank[0])
            torch.add(before[:, :-1], skewed[n, 1], out=by_token[0])
            torch.logaddexp(by_blank[0], by_token[0], out=alphas[here, :, 1:])
        else:
            torch.add(alphas[here - from_blank, :, 1:], skewed[n, : len(blanks)], out=by_blank)
            torch.add(alphas[here - from_token, :, :-1], skewed[n, len(blanks) :], out=by_token)
            alphas[here, :, 1:] = torch.logsumexp(terms, dim=0)
    return alphas[lead:, :, 1:]
