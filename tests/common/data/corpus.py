"""A made-up corpus: how long its recordings are and how many tokens they hold."""

from __future__ import annotations

import numpy as np


def corpus(seed: int, count: int, kind: str) -> tuple[list[float], list[int]]:
    """Log-normal durations and token counts with a few far too high; `kind` makes many durations alike."""
    generator = np.random.default_rng(seed)
    durations = np.clip(generator.lognormal(1.6, 0.7, count), 0.3, 40.0)
    if kind == "alike":
        durations[generator.random(count) < 0.4] = 12.345
    if kind == "cut off":
        durations[generator.random(count) < 0.5] = 40.0
    rates = np.clip(generator.normal(3.2, 0.9, count), 0.0, None)
    tokens = (durations * rates).astype(int) + 5
    tokens[generator.choice(count, max(1, count // 200), replace=False)] *= 8
    return [float(d) for d in durations], [int(n) for n in tokens]
