"""Joint network and loss in one: the scores [B, T, U+1, V+1+D] of a whole batch never exist.

Legend: `B` batch, `T` frames, `U1` tokens + 1, `J` joint width, `V` vocabulary, `D` durations.

Rows of similar target length form groups whose scores fit a budget. A group's scores give its lattice, the lattice
gives the gradient of the scores, and only its products with the output layer are kept: all in the forward pass, so
the common case computes nothing twice. A single recording beyond the budget is cut in time, and its scores are
computed a second time once the lattice is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aronnax.collections.asr.transducer.cells import (
    CellScores,
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
from aronnax.collections.asr.transducer.lattice import lattice, transducer_arcs

if TYPE_CHECKING:
    from torch import nn

    from aronnax.collections.asr.transducer.joint import Joint

BUDGET = 2**24
"""Scores held at once (64 MB of float32)."""


def fused_transducer_loss(
    joint: Joint,
    encoder_states: Tensor,
    prediction_states: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    *,
    durations: tuple[int, ...] = (),
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean_batch",
    budget: int = BUDGET,
) -> Tensor:
    """RNN-T loss, or TDT loss with `durations`, of encoder [B, T, D] and prediction states [B, U+1, H].

    Equal in value and gradient to the loss of `joint(encoder_states, prediction_states)`. `targets` [B, U] may be
    padded with anything. `budget` bounds the scores held at once. With `reduction="none"` the result [B] carries no
    gradient.
    """
    criterion = TransducerCriterion(tuple(durations), sigma, omega, fastemit).sampled()
    output = joint.output
    weight: Tensor = output.weight
    bias: Tensor = output.bias
    if len(criterion.durations) < joint.n_durations:
        weight, bias = weight[: -joint.n_durations], bias[: -joint.n_durations]
    targets = fit_targets(targets, prediction_states.shape[1], weight.shape[0] - 1 - len(criterion.durations))
    work = _Work(
        targets=targets,
        lengths=lengths,
        target_lengths=target_lengths,
        criterion=criterion,
        activation=joint.activation,
        dropout=joint.config.dropout if joint.training else 0.0,
        row_weights=reduction_weights(target_lengths, "sum" if reduction == "none" else reduction),
        budget=budget,
    )
    inputs = [joint.enc(encoder_states), joint.pred(prediction_states), weight, bias]
    if not torch.is_grad_enabled():
        # Parameters ask for a gradient even where none is recorded, and the loss would then compute it.
        inputs = [tensor.detach() for tensor in inputs]
    loss, rows = _FusedLoss.apply(*inputs, work)
    return rows if reduction == "none" else loss


@dataclass(frozen=True)
class _Work:
    """Everything the fused loss needs beside the tensors it differentiates."""

    targets: Tensor
    lengths: Tensor
    target_lengths: Tensor
    criterion: TransducerCriterion
    activation: nn.Module
    dropout: float
    row_weights: Tensor
    budget: int

    def groups(self, width: int) -> Iterator[tuple[Tensor, int, int]]:
        """Rows [G] of similar target length with their longest frames and columns, within the budget if G > 1."""
        frames, tokens = self.lengths.tolist(), self.target_lengths.tolist()
        group: list[int] = []
        longest = columns = 0
        for row in sorted(range(len(tokens)), key=lambda r: (tokens[r], frames[r])):
            t, u = max(longest, frames[row]), tokens[row] + 1
            if group and (len(group) + 1) * t * u * width > self.budget:
                yield torch.tensor(group, device=self.targets.device), longest, columns
                group, t = [], frames[row]
            group.append(row)
            longest, columns = t, u
        if group:
            yield torch.tensor(group, device=self.targets.device), longest, columns


@dataclass
class _Group:
    """The rows of one group: detached projections [G, T, J] and [G, U1, J] that collect their own gradients."""

    encoder: Tensor
    prediction: Tensor
    targets: Tensor
    seed: int

    def meeting(self, work: _Work, start: int, stop: int) -> Tensor:
        """Input [G, t, U1, J] of the output layer for some frames; the same dropout every time it is asked for."""
        hidden: Tensor = work.activation(self.encoder[:, start:stop, None] + self.prediction[:, None])
        if work.dropout > 0:
            generator = torch.Generator(hidden.device).manual_seed(self.seed + start)
            hidden = hidden * _kept(hidden, work.dropout, generator)
        return hidden


def _kept(like: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout factors: 0 or 1 / (1 - dropout). On a CPU 16 random bits a number, far faster than Bernoulli draws."""
    threshold = round(dropout * 65536)
    if like.device.type != "cpu" or threshold in (0, 65536):
        return torch.empty_like(like).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = words.view(torch.int16)[: like.numel()].view(like.shape) >= threshold - 32768
    return kept.to(like.dtype).mul_(65536 / (65536 - threshold))


class _FusedLoss(torch.autograd.Function):
    """Reduced loss and, without gradient, every row's."""

    @staticmethod
    def forward(
        ctx: Any, encoder: Tensor, prediction: Tensor, weight: Tensor, bias: Tensor, work: _Work
    ) -> tuple[Tensor, Tensor]:
        kind = encoder.device.type
        compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else encoder.dtype
        wanted = any(ctx.needs_input_grad)
        exact = torch.promote_types(encoder.dtype, torch.float32)
        sums = _Gradients(encoder, prediction, weight, bias, exact) if wanted else None
        rows = torch.zeros(encoder.shape[0], dtype=exact, device=encoder.device)
        layer = (weight.to(compute), bias.to(compute))
        seed = int(torch.randint(2**62, ())) if work.dropout > 0 else 0
        with torch.autocast(kind, enabled=False):
            for number, (members, frames, columns) in enumerate(work.groups(weight.shape[0])):
                group = _Group(
                    encoder[members, :frames].to(compute),
                    prediction[members, :columns].to(compute),
                    work.targets[members, : columns - 1],
                    seed + number * 1_000_003,
                )
                rows[members] = _run_group(group, members, layer, work, sums)
        weights = work.row_weights.to(rows)
        loss = weighted_sum(rows, weights)
        if sums is not None:
            ctx.save_for_backward(*sums.finish(encoder, prediction, weight, bias))
        ctx.mark_non_differentiable(rows)
        return loss, rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None)


class _Gradients:
    """Sums of gradients over groups, in at least float32."""

    def __init__(
        self, encoder: Tensor, prediction: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> None:
        self.encoder = torch.zeros_like(encoder, dtype=dtype)
        self.prediction = torch.zeros_like(prediction, dtype=dtype)
        self.weight = torch.zeros_like(weight, dtype=dtype)
        self.bias = torch.zeros_like(bias, dtype=dtype)

    def finish(self, *like: Tensor) -> tuple[Tensor, ...]:
        """The sums in the types of the tensors they belong to."""
        sums = (self.encoder, self.prediction, self.weight, self.bias)
        return tuple(total.to(tensor.dtype) for total, tensor in zip(sums, like))


def _run_group(
    group: _Group, members: Tensor, layer: tuple[Tensor, Tensor], work: _Work, sums: _Gradients | None
) -> Tensor:
    """Losses [G] of a group; adds its gradients to `sums`."""
    rows, frames = group.encoder.shape[:2]
    columns = group.prediction.shape[1]
    step = max(1, work.budget // (rows * columns * layer[0].shape[0]))
    spans = [(start, min(start + step, frames)) for start in range(0, frames, step)]
    if sums is not None:
        group.encoder.requires_grad_()
        group.prediction.requires_grad_()
    kept: list[tuple[Tensor, CellScores]] = []
    parts = []
    for span in spans:
        hidden, scores = _score(group, layer, work, span, sums is not None)
        blank, label = scores.tokens[..., -1], next_label(scores.tokens, group.targets)
        parts.append(arc_weights(blank, label, scores.durations, work.criterion))
        if len(spans) == 1:
            kept.append((hidden, scores))
    weights = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    total, posterior = lattice(
        transducer_arcs(work.criterion.durations),
        weights,
        work.lengths[members],
        work.target_lengths[members],
        occupancy=sums is not None,
    )
    exact = torch.promote_types(group.encoder.dtype, torch.float32)
    if posterior is not None and sums is not None:
        posterior *= work.row_weights[members].view(-1, 1, 1).to(posterior)
        for span in spans:
            part = Occupancy.from_arcs(posterior[:, :, span[0] : span[1]], work.criterion, exact)
            hidden, scores = kept.pop() if kept else _score(group, layer, work, span, True)
            _add_gradients(
                group, members, layer[0], sums, hidden, logit_gradient(scores, part, group.targets)
            )
    return -total.to(exact) * (1 + work.criterion.fastemit)


def _score(
    group: _Group, layer: tuple[Tensor, Tensor], work: _Work, span: tuple[int, int], differentiable: bool
) -> tuple[Tensor, CellScores]:
    """Input of the output layer [G, t, U1, J], recorded by autograd if asked for, and the scores it gives."""
    with torch.set_grad_enabled(differentiable):
        hidden = group.meeting(work, *span)
    logits = torch.nn.functional.linear(hidden.detach(), *layer)
    return hidden, cell_scores(logits, len(work.criterion.durations))


def _add_gradients(
    group: _Group, members: Tensor, weight: Tensor, sums: _Gradients, hidden: Tensor, gradient: Tensor
) -> None:
    """From the gradient of the scores [G, t, U1, V+1+D] back to the output layer and both projections."""
    flat = gradient.flatten(0, 2)
    sums.bias += flat.sum(0)
    flat = flat.to(hidden.dtype)
    sums.weight += flat.T @ hidden.detach().flatten(0, 2)
    back = (flat @ weight).view_as(hidden)
    to_encoder, to_prediction = torch.autograd.grad(hidden, (group.encoder, group.prediction), back)
    sums.encoder[members, : to_encoder.shape[1]] += to_encoder
    sums.prediction[members, : to_prediction.shape[1]] += to_prediction
