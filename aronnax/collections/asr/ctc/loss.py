"""CTC loss (torch's), averaged as NeMo does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from aronnax.collections.asr.batch import SpeechBatch
    from aronnax.collections.asr.ctc.head import CTCHead
    from aronnax.collections.asr.ctc.model import CTCModel
    from aronnax.collections.asr.encoder import EncoderOutput


def ctc_loss(
    log_probs: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    *,
    reduction: str = "mean_batch",
) -> Tensor:
    """CTC loss of `log_probs` [B, T, V+1] (blank last) for `targets` [B, U].

    A row whose text cannot fit into its frames counts as 0. `mean_batch` is the mean over rows, `mean_volume` the
    sum divided by all tokens, `none` gives [B].
    """
    blank = log_probs.shape[-1] - 1
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        lengths,
        target_lengths,
        blank,
        reduction="none",
        zero_infinity=True,
    )
    if reduction == "none":
        return losses
    if reduction == "mean_batch":
        return losses.mean()
    if reduction == "mean_volume":
        return losses.sum() / target_lengths.sum().clamp(min=1)
    raise ValueError(f"reduction is {reduction!r}; use mean_batch, mean_volume or none")


def head_loss(
    head: CTCHead, output: EncoderOutput, batch: SpeechBatch, reduction: str = "mean_batch"
) -> Tensor:
    """Loss of one CTC head on encoder states [B, T, D]: a scalar, or [B] with the reduction "none"."""
    return ctc_loss(
        head(output.states), output.lengths, batch.tokens, batch.token_lengths, reduction=reduction
    )


def losses(
    model: CTCModel, output: EncoderOutput, batch: SpeechBatch, *, reduction: str = "mean_batch"
) -> dict[str, Tensor]:
    """The loss of each head by its name, on encoder states [B, T, D]."""
    return {"ctc": head_loss(model.decoder, output, batch, reduction)}
