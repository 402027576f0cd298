"""What full and fused transducer losses share: criterion, node scores, occupancies, gradients of logits.

Legend: `B` batch, `T` frames, `U1` tokens + 1, `V` vocabulary without blank (the blank is index V), `D` durations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean_batch", "mean", "mean_volume", "sum", "none"]


@dataclass(frozen=True)
class TransducerCriterion:
    """What is minimised: RNN-T without `durations`, else TDT."""

    durations: tuple[int, ...] = ()
    """Frames each duration output stands for; empty for RNN-T."""
    sigma: float = 0.0
    """Logit under-normalisation of TDT: subtracted from every token's log-probability."""
    omega: float = 0.0
    """Probability with which a call uses the RNN-T loss of the token outputs instead of TDT."""
    fastemit: float = 0.0
    """FastEmit's lambda: gradients of emissions, and the value, grow by 1 + lambda."""

    def sampled(self) -> TransducerCriterion:
        """The criterion of this call, after drawing from `omega` on torch's CPU generator."""
        if self.durations and self.omega > 0 and float(torch.rand(())) < self.omega:
            return TransducerCriterion(fastemit=self.fastemit)
        return self


@dataclass
class CellScores:
    """Log-probabilities out of every lattice node: all tokens [B, T, U1, V+1] and durations [B, T, U1, D] or None."""

    tokens: Tensor
    durations: Tensor | None


def fit_targets(targets: Tensor, columns: int, blank: int) -> Tensor:
    """Cut `targets` [B, U] to `columns` - 1 tokens and make the padding valid as an index."""
    if targets.shape[1] < columns - 1:
        raise ValueError(
            f"targets hold {targets.shape[1]} tokens a row, but the logits have room for {columns - 1}"
        )
    return targets[:, : columns - 1].long().clamp(0, blank)


def reduction_weights(target_lengths: Tensor, reduction: Reduction) -> Tensor:
    """Factor [B] with which each row's loss enters the reduced one."""
    ones = torch.ones_like(target_lengths, dtype=torch.float64)
    if reduction == "sum":
        return ones
    if reduction == "mean_batch":
        return ones / len(ones)
    if reduction == "mean_volume":
        return ones / target_lengths.sum().clamp(min=1)
    if reduction == "mean":
        return ones / target_lengths.clamp(min=1) / len(ones)
    raise ValueError(f"reduction is {reduction!r}; use mean_batch, mean, mean_volume, sum or none")


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Sum of the rows' losses [B]; a row that no alignment fits (infinite loss) counts as 0."""
    return torch.where(torch.isinf(losses), 0.0, losses * weights).sum()


def cell_scores(logits: Tensor, n_durations: int) -> CellScores:
    """Normalise the token and duration parts of `logits` [..., V+1+D] apart, in float32 or more."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if not n_durations:
        return CellScores(torch.log_softmax(logits, dim=-1, dtype=dtype), None)
    tokens = torch.log_softmax(logits[..., :-n_durations], dim=-1, dtype=dtype)
    return CellScores(tokens, torch.log_softmax(logits[..., -n_durations:], dim=-1, dtype=dtype))


def arc_weights(
    blank: Tensor, label: Tensor, durations: Tensor | None, criterion: TransducerCriterion
) -> Tensor:
    """Stack [K, B, T, U1] of the log-probability of each arc, from those of blank, next label and durations."""
    if durations is None:
        return torch.stack([blank, label])
    by_duration = durations.movedim(-1, 0)
    blanks = [k for k, d in enumerate(criterion.durations) if d > 0]
    weights = torch.cat([by_duration[blanks] + blank, by_duration + label])
    return weights - criterion.sigma


def next_label(tokens: Tensor, targets: Tensor) -> Tensor:
    """Log-probability [B, T, U1] of the token that follows at each node; the last column is never used."""
    index = torch.nn.functional.pad(targets, (0, 1))[:, None, :, None].expand(-1, tokens.shape[1], -1, 1)
    return tokens.gather(-1, index).squeeze(-1)


@dataclass
class Occupancy:
    """Posteriors of blank, label [B, T, U1] and duration [B, T, U1, D] steps, as the gradient needs them."""

    blank: Tensor
    label: Tensor
    durations: Tensor | None

    @classmethod
    def from_arcs(cls, posterior: Tensor, criterion: TransducerCriterion, dtype: torch.dtype) -> Occupancy:
        """Collect the arcs' posteriors [K, B, T, U1]; FastEmit weighs the emissions."""
        durations = criterion.durations
        if not durations:
            blank, label = posterior.to(dtype)
            return cls(blank, label * (1 + criterion.fastemit), None)
        positive = [k for k, d in enumerate(durations) if d > 0]
        blanks, labels = posterior.to(dtype).split([len(positive), len(durations)])
        labels = labels * (1 + criterion.fastemit)
        per_duration = labels.clone()
        per_duration[positive] += blanks
        return cls(blanks.sum(0), labels.sum(0), per_duration.movedim(0, -1))


def logit_gradient(scores: CellScores, occupancy: Occupancy, targets: Tensor) -> Tensor:
    """Gradient [B, T, U1, V+1(+D)] of the negative log-likelihood for the logits; overwrites `scores`."""
    total = occupancy.blank + occupancy.label
    tokens = scores.tokens.add_(total.log().unsqueeze(-1)).exp_()
    tokens[..., -1] -= occupancy.blank
    index = torch.nn.functional.pad(targets, (0, 1))[:, None, :, None].expand(-1, tokens.shape[1], -1, 1)
    tokens.scatter_add_(-1, index, -occupancy.label.unsqueeze(-1))
    if scores.durations is None or occupancy.durations is None:
        return tokens
    durations = scores.durations.exp_().mul_(total.unsqueeze(-1)).sub_(occupancy.durations)
    return torch.cat([tokens, durations], dim=-1)
