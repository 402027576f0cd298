"""How sure the model was of a token, from the distribution it was chosen from.

Both measures are 0 for a uniform and 1 for a certain distribution. Tsallis entropy with alpha 0.33 and exponential
normalisation is NeMo's default (Laptev & Ginsburg 2022, arXiv:2212.08703).
"""

from __future__ import annotations

import math

from torch import Tensor

from aronnax.core.errors import OptionError

ALPHA = 0.33
"""Order of the entropy: small values weigh improbable tokens more."""

MEASURES = ("tsallis", "max_prob")


def check_measure(measure: str | None) -> None:
    """OptionError unless `measure` is None or one of `MEASURES`."""
    if measure is not None and measure not in MEASURES:
        raise OptionError(f"confidence is {measure!r}; use {', '.join(MEASURES)} or None")


def confidence(log_probs: Tensor, measure: str, alpha: float = ALPHA) -> Tensor:
    """Confidence [...] of normalised log-probabilities [..., N], by Tsallis entropy or the largest probability."""
    check_measure(measure)
    size = log_probs.shape[-1]
    if measure == "max_prob":
        uniform = size**alpha
        return ((log_probs.amax(dim=-1) * alpha).exp() * uniform - 1) / (uniform - 1)
    most = math.exp((1 - size ** (1 - alpha)) / (1 - alpha))
    entropy = ((log_probs * alpha).exp().sum(dim=-1) - 1) / (1 - alpha)
    return (((-entropy).exp() - most) / (1 - most)).clamp(0.0, 1.0)
