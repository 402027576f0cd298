"""The optimizer of a training: AdamW with a schedule, described by one typed config."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from aronnax.collections.common.optim.groups import ParameterGroup, of_longest_prefix, parameter_groups
from aronnax.collections.common.optim.schedules import Schedule, ScheduleName, schedule
from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up."""
    schedule: ScheduleName = "cosine"
    """`cosine` falls to `min_lr` at the last step, `noam` with one over the square root of the step."""
    warmup_steps: int = 1000
    """Optimizer steps over which the rate rises linearly."""
    min_lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 1e-3
    """Decoupled decay of matrices and kernels; biases and norms never decay."""
    multipliers: dict[str, float] = field(default_factory=dict)
    """Dotted prefix of parameter names -> factor of the learning rate, e.g. `encoder: 0.1`."""
    first_steps: dict[str, int] = field(default_factory=dict)
    """Dotted prefix -> optimizer step at which it starts to learn (and to warm up), e.g. `encoder: 500` for a
    head-only start."""

    def rests(self, name: str, step: int) -> bool:
        """Whether the parameter of that name does not learn yet at that optimizer step."""
        return step < of_longest_prefix(name, self.first_steps, 0)

    def check(self, total_steps: int | None) -> None:
        """Raises ConfigError when the rates or the steps of the schedule contradict each other."""
        if self.lr <= 0 or self.min_lr < 0 or self.min_lr > self.lr:
            raise ConfigError(f"optim.lr {self.lr} and optim.min_lr {self.min_lr}: 0 <= min_lr <= lr, lr > 0")
        schedule(self.schedule, self.warmup_steps, total_steps, self.min_lr / self.lr)

    def build(
        self, module: nn.Module, total_steps: int | None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Returns the optimizer over the module's trainable parameters and its per-step scheduler."""
        self.check(total_steps)
        groups = parameter_groups(module, self.multipliers, self.first_steps)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": list(group.parameters),
                    "lr": self.lr * group.multiplier,
                    "weight_decay": self.weight_decay if group.decays else 0.0,
                }
                for group in groups
            ],
            betas=self.betas,
            eps=self.eps,
        )
        lambdas = [self._group_schedule(group, total_steps) for group in groups]
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas)

    def _group_schedule(self, group: ParameterGroup, total_steps: int | None) -> Schedule:
        first = group.first_step
        remaining = None if total_steps is None else total_steps - first
        if remaining is not None and remaining <= 0:
            raise ConfigError(
                f"optim.first_steps: step {first} for {group.names[0]} lies beyond the {total_steps} steps "
                "of training"
            )
        base = schedule(self.schedule, self.warmup_steps, remaining, self.min_lr / self.lr)
        return partial(_delayed, base, first)


def _delayed(base: Schedule, first_step: int, step: int) -> float:
    return base(step - first_step) if step >= first_step else 0.0
