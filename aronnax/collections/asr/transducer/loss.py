"""RNN-T and TDT losses with analytic gradients.

Legend: `B` batch, `T` frames, `U` tokens, `V` vocabulary without blank (the blank is index V), `D` durations.
Sources: Graves 2012 (RNN-T), Xu et al. 2023, arXiv:2304.06795 (TDT; sigma and omega in section 4), Yu et al. 2021,
arXiv:2010.11148 (FastEmit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aronnax.collections.asr.transducer.cells import (
    Occupancy,
    Reduction,
    TransducerCriterion,
    arc_weights,
    cell_scores,
    fit_targets,
    logit_gradient,
    next_label,
    reduction_weights,
    weighted_sum,
)
from aronnax.collections.asr.transducer.fused import fused_transducer_loss
from aronnax.collections.asr.transducer.lattice import lattice, transducer_arcs

if TYPE_CHECKING:
    from aronnax.collections.asr.batch import SpeechBatch
    from aronnax.collections.asr.encoder import EncoderOutput
    from aronnax.collections.asr.transducer.model import TransducerModel

__all__ = ["fused_transducer_loss", "losses", "rnnt_loss", "tdt_loss"]


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
    criterion = TransducerCriterion(fastemit=fastemit)
    losses = _losses_of_rows(logits, targets, logit_lengths, target_lengths, criterion)
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
    losses = _losses_of_rows(logits, targets, logit_lengths, target_lengths, criterion)
    return reduce_losses(losses, target_lengths, reduction)


def _losses_of_rows(
    logits: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor, criterion: TransducerCriterion
) -> Tensor:
    """Loss of each row [B]."""
    targets = fit_targets(targets, logits.shape[2], logits.shape[-1] - 1 - len(criterion.durations))
    if not torch.is_grad_enabled():
        # Scores may ask for a gradient even where none is recorded, and the loss would then compute it.
        logits = logits.detach()
    losses: Tensor = _TransducerLoss.apply(logits, targets, lengths, target_lengths, criterion)
    return losses


def losses(
    model: TransducerModel,
    output: EncoderOutput,
    batch: SpeechBatch,
    *,
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean_batch",
) -> dict[str, Tensor]:
    """The loss of the transducer head by its name, without ever holding all scores at once."""
    loss = fused_transducer_loss(
        model.joint,
        output.states,
        model.decoder(batch.tokens),
        batch.tokens,
        output.lengths,
        batch.token_lengths,
        durations=model.config.durations,
        sigma=sigma,
        omega=omega if model.training else 0.0,
        fastemit=fastemit,
        reduction=reduction,
    )
    return {model.heads[0]: loss}


def reduce_losses(losses: Tensor, target_lengths: Tensor, reduction: Reduction) -> Tensor:
    """Reduce per-row `losses` [B]: `mean_volume` divides their sum by all tokens, `mean` each row by its own."""
    if reduction == "none":
        return losses
    return weighted_sum(losses, reduction_weights(target_lengths, reduction).to(losses))


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
