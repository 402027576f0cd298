"""What every decoder gives for one recording: tokens, when they were said, how sure the model was."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Hypothesis:
    """Tokens of one row with their times in encoder frames."""

    tokens: list[int] = field(default_factory=list)
    """Token ids, blanks left out."""
    frames: list[int] = field(default_factory=list)
    """Encoder frame at which each token starts, counted from the first frame given to `decode`."""
    durations: list[int] = field(default_factory=list)
    """Frames each token lasts: its run for CTC, 1 for RNN-T, what the model predicted (0 allowed) for TDT."""
    confidences: list[float] = field(default_factory=list)
    """One number from 0 to 1 a token; empty when no confidence was asked for."""
    score: float = 0.0
    """Sum of the tokens' log-probabilities; CTC adds those of the blanks."""
    log_probs: list[float] = field(default_factory=list)
    """Log-probability of each token, where the decoder gives them."""
    cut_short: bool = False
    """Whether an encoder-decoder was stopped by the most tokens it may write."""
