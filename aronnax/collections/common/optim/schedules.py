"""Learning-rate schedules as factors of the peak rate, each with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from aronnax.core.errors import ConfigError

ScheduleName = Literal["constant", "noam", "cosine"]
Schedule = Callable[[int], float]


def constant(warmup_steps: int) -> Schedule:
    """Rises linearly to 1 over the warm-up, then stays."""
    return lambda step: _warmup(step, warmup_steps)


def noam(warmup_steps: int, floor: float = 0.0) -> Schedule:
    """Falls with the inverse square root of the step after the warm-up (Vaswani et al. 2017, equation 3).

    The peak is 1, reached at the end of the warm-up: NeMo's `lr` of its NoamAnnealing is
    `peak * sqrt(d_model * warmup_steps)` in these terms.
    """
    knee = max(1, warmup_steps)
    return lambda step: max(floor, min(_warmup(step, warmup_steps), math.sqrt(knee / max(1, step + 1))))


def cosine(warmup_steps: int, total_steps: int, floor: float = 0.0) -> Schedule:
    """Falls from 1 to the floor along half a cosine between the warm-up and the last step."""
    if total_steps <= warmup_steps:
        raise ConfigError(
            f"a cosine schedule of {total_steps} steps leaves none after {warmup_steps} warm-up steps: "
            f"lower them, as by optim.warmup_steps={total_steps // 10}, or raise trainer.max_steps"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _warmup(step, warmup_steps)
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def _warmup(step: int, warmup_steps: int) -> float:
    # The first step already learns: its factor is 1 / warmup_steps, not zero.
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def schedule(name: ScheduleName, warmup_steps: int, total_steps: int | None, floor: float = 0.0) -> Schedule:
    """Returns the schedule of that name: optimizer step (from 0) -> factor of the peak rate."""
    if name == "constant":
        return constant(warmup_steps)
    if name == "noam":
        return noam(warmup_steps, floor)
    if name == "cosine":
        if total_steps is None:
            raise ConfigError("optim.schedule is cosine, which must know its end: set trainer.max_steps")
        return cosine(warmup_steps, total_steps, floor)
    raise ConfigError(f"optim.schedule is {name!r}; the schedules are constant, noam, cosine")
