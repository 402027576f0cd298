"""Losses of both heads of a hybrid model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from aronnax.collections.asr.ctc.loss import head_loss
from aronnax.collections.asr.transducer.loss import Reduction
from aronnax.collections.asr.transducer.loss import losses as transducer_losses

if TYPE_CHECKING:
    from aronnax.collections.asr.batch import SpeechBatch
    from aronnax.collections.asr.encoder import EncoderOutput
    from aronnax.collections.asr.hybrid.model import HybridModel


def losses(
    model: HybridModel,
    output: EncoderOutput,
    batch: SpeechBatch,
    *,
    sigma: float = 0.0,
    omega: float = 0.0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean_batch",
) -> dict[str, Tensor]:
    """The loss of each head by its name on encoder states [B, T, D], unweighted.

    `ctc_weight` of the configuration says how to mix them.
    """
    transducer = transducer_losses(
        model, output, batch, sigma=sigma, omega=omega, fastemit=fastemit, reduction=reduction
    )
    return {**transducer, "ctc": head_loss(model.ctc_decoder, output, batch, reduction)}
