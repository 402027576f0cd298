"""RNN-T and TDT losses with analytic gradients.

Legend: `B` batch, `T` frames, `U` tokens, `V` vocabulary without blank (the blank is index V), `D` durations.
Sources: Graves 2012 (RNN-T), Xu et al. 2023, arXiv:2304.06795 (TDT; sigma and omega in section 4), Yu et al. 2021,
arXiv:2010.11148 (FastEmit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aronnax.collections.asr.transducer.lattice import lattice, transducer_arcs

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


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    fastemit: float = 0.0,
    reduction: Reduction = "mean_batch",
) -> Tensor:
    """RNN-T loss of unnormalised `logits` [B, T, U+1, V+1] for `targets` [B, U]; the blank is the last output."""
    targets = fit_targets(targets, logits.shape[2], logits.shape[-1] - 1)
    losses = _TransducerLoss.apply(
        logits, targets, logit_lengths, target_lengths, TransducerCriterion(fastemit=fastemit)
    )
    return reduce_losses(losses, target_lengths, reduction)


def tdt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    durations: tuple[int, ...],
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean_batch",
) -> Tensor:
    """TDT loss of `logits` [B, T, U+1, V+1+D], the D last outputs being durations, for `targets` [B, U]."""
    criterion = TransducerCriterion(tuple(durations), sigma, omega, fastemit).sampled()
    if not criterion.durations:
        logits = logits[..., : -len(durations)]
    targets = fit_targets(targets, logits.shape[2], logits.shape[-1] - 1 - len(criterion.durations))
    losses = _TransducerLoss.apply(logits, targets, logit_lengths, target_lengths, criterion)
    return reduce_losses(losses, target_lengths, reduction)


def fit_targets(targets: Tensor, columns: int, blank: int) -> Tensor:
    """Cut `targets` [B, U] to `columns` - 1 tokens and make the padding valid as an index."""
    if targets.shape[1] < columns - 1:
        raise ValueError(f"targets hold {targets.shape[1]} tokens a row, but the logits have room for {columns - 1}")
    return targets[:, : columns - 1].long().clamp(0, blank)


def reduce_losses(losses: Tensor, target_lengths: Tensor, reduction: Reduction) -> Tensor:
    """Reduce per-row `losses` [B]: `mean_volume` divides their sum by all tokens, `mean` each row by its own."""
    if reduction == "none":
        return losses
    return (losses * reduction_weights(target_lengths, reduction).to(losses)).sum()


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


def cell_scores(logits: Tensor, n_durations: int) -> CellScores:
    """Split `logits` [..., V+1+D] into separately normalised token and duration log-probabilities (float32 or more)."""
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
    """Posterior probabilities of blank, label [B, T, U1] and duration [B, T, U1, D] steps, scaled for the gradient."""

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


class _TransducerLoss(torch.autograd.Function):
    """Per-row loss of full logits; the gradient is made in the forward pass, in the storage of the log-softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        lengths: Tensor,
        target_lengths: Tensor,
        criterion: TransducerCriterion,
    ) -> Tensor:
        scores = cell_scores(logits, len(criterion.durations))
        weights = arc_weights(
            scores.tokens[..., -1], next_label(scores.tokens, targets), scores.durations, criterion
        )
        wanted = ctx.needs_input_grad[0]
        total, posterior = lattice(
            transducer_arcs(criterion.durations), weights, lengths, target_lengths, occupancy=wanted
        )
        if posterior is not None:
            occupancy = Occupancy.from_arcs(posterior, criterion, scores.tokens.dtype)
            ctx.save_for_backward(logit_gradient(scores, occupancy, targets).to(logits.dtype))
        return -total.to(scores.tokens.dtype) * (1 + criterion.fastemit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype).view(-1, 1, 1, 1), None, None, None, None
