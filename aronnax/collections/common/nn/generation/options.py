"""Options and results of decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aronnax.collections.common.nn.confidence import check_measure
from aronnax.core.errors import OptionError

Finish = Literal["eos", "limit", "stopped"]


@dataclass(frozen=True)
class GenerationOptions:
    """How to choose tokens; the defaults are greedy decoding."""

    max_new_tokens: int | None = None
    """Most tokens of an answer; None leaves it to the limits the model gives."""
    beam: int = 1
    """Hypotheses kept; 1 is greedy decoding."""
    n_best: int = 1
    """Answers returned for a row, best first: of the beam, or so many samples."""
    length_penalty: float = 0.0
    """Hypotheses are compared by score / ((5 + length) / 6) ** length_penalty (arXiv 1609.08144, eq. 14)."""
    nemo_beam: bool = False
    """Beam search with the oddities of NeMo 3.0.0's (see `beam.py`), to give its very texts."""
    temperature: float = 0.0
    """Above 0, tokens are drawn, from scores divided by this."""
    top_k: int | None = None
    """Draw among so many most probable tokens only."""
    top_p: float | None = None
    """Draw among the fewest tokens that together have at least this probability."""
    seed: int | None = None
    """Makes drawing repeatable: a row's draws depend on the seed and on nothing else in the batch."""
    stop: tuple[tuple[int, ...], ...] = ()
    """Token sequences that end an answer and are left out of it."""
    confidence: str | None = None
    """Measure of confidence a token: "tsallis", "max_prob" or None."""
    log_probs: bool = True
    """Whether answers tell log-probabilities; without, a step need not compute all scores to find the best."""

    @property
    def tokens_only(self) -> bool:
        """Whether the best tokens are all that is asked for."""
        return self.temperature == 0.0 and self.confidence is None and not self.log_probs

    def __post_init__(self) -> None:
        check_measure(self.confidence)
        for name, value, fine, want in (
            ("max_new_tokens", self.max_new_tokens, (self.max_new_tokens or 0) >= 0, "0 or more, or None"),
            ("beam", self.beam, self.beam >= 1, "1 or more"),
            ("temperature", self.temperature, self.temperature >= 0.0, "0 (the best token) or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more, or None"),
            (
                "top_p",
                self.top_p,
                self.top_p is None or 0.0 < self.top_p <= 1.0,
                "over 0 and at most 1, or None",
            ),
            ("stop", self.stop, all(self.stop), "sequences of one token or more"),
        ):
            if not fine:
                raise OptionError(f"{name} is {value!r}: it must be {want}")
        if self.beam > 1 and self.temperature > 0.0:
            raise OptionError("beam search does not draw: give beam above 1 or temperature above 0, not both")
        if self.temperature == 0.0 and (self.top_k is not None or self.top_p is not None):
            raise OptionError("top_k and top_p say what to draw from: give a temperature above 0 too")
        if not self.log_probs and (self.beam > 1 or self.n_best > 1):
            raise OptionError(
                "log_probs=False: a beam, and several answers, are compared by them; leave it True"
            )
        if not 1 <= self.n_best <= (self.n_best if self.temperature > 0.0 else self.beam):
            raise OptionError(f"n_best is {self.n_best}: with beam {self.beam} it must be 1 to {self.beam}")


@dataclass(frozen=True)
class Generated:
    """One answer."""

    tokens: list[int]
    """Without the token or sequence that ended it."""
    log_probs: list[float]
    """Log-probability of each token, if asked for."""
    confidences: list[float] | None
    """Confidence of each token, 0 to 1, if asked for."""
    score: float
    """Sum of log-probabilities, the end's included; 0 if they were not asked for."""
    finished: Finish
    """Why it ended: the end token, the limit, or a stop sequence or guard."""


@dataclass(frozen=True)
class Said:
    """One step of one row, as it happens."""

    row: int
    sample: int
    """Which of a row's answers."""
    token: int | None
    """None if the answer ended without a further token."""
    finished: Finish | None
    """Why the answer ended here, or None if it goes on."""
    answer: Generated | None = None
    """The whole answer, at its end."""
    log_prob: float | None = None
    """Log-probability of the token, if asked for."""
