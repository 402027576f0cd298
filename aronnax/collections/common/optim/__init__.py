"""Optimizers, schedules and parameter groups."""

from aronnax.collections.common.optim.config import OptimConfig
from aronnax.collections.common.optim.groups import ParameterGroup, check_prefixes, parameter_groups, under
from aronnax.collections.common.optim.schedules import Schedule, constant, cosine, noam, schedule

__all__ = [
    "OptimConfig",
    "ParameterGroup",
    "Schedule",
    "check_prefixes",
    "constant",
    "cosine",
    "noam",
    "parameter_groups",
    "schedule",
    "under",
]
