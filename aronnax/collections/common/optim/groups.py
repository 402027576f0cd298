"""Parameter groups: what decays, and which parts learn faster, slower or later than the rest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters that share weight decay, learning-rate multiplier and first step."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    decays: bool
    multiplier: float
    first_step: int


def under(name: str, prefix: str) -> bool:
    """Whether the dotted name is the prefix itself or lies below it."""
    return not prefix or name == prefix or name.startswith(prefix + ".")


def check_prefixes(prefixes: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raises ConfigError for a prefix no name lies under, naming the nearest part of the model."""
    names = list(names)
    split = [name.split(".") for name in names]
    parts = {".".join(pieces[:n]) for pieces in split for n in range(1, len(pieces) + 1)}
    for prefix in prefixes:
        if not any(under(name, prefix) for name in names):
            near = difflib.get_close_matches(prefix, parts, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: the model has no trainable part {prefix!r}{hint}")


def parameter_groups(
    module: nn.Module,
    multipliers: Mapping[str, float] | None = None,
    first_steps: Mapping[str, int] | None = None,
) -> list[ParameterGroup]:
    """Sorts the trainable parameters into groups; the longest matching prefix decides.

    Matrices and kernels decay; biases, norms and position biases do not. `multipliers` and `first_steps`
    map dotted prefixes such as `encoder.layers` to a factor of the learning rate and to the optimizer step
    at which learning starts. Raises ConfigError for a prefix that names nothing, or when nothing is left
    to train.
    """
    multipliers, first_steps = multipliers or {}, first_steps or {}
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ConfigError("every parameter of the model is frozen: nothing is left to train")
    check_prefixes(multipliers, trainable, "optim.multipliers")
    check_prefixes(first_steps, trainable, "optim.first_steps")
    groups: dict[tuple[bool, float, int], list[str]] = {}
    for name, parameter in trainable.items():
        key = (
            _decays(name, parameter),
            float(of_longest_prefix(name, multipliers, 1.0)),
            int(of_longest_prefix(name, first_steps, 0)),
        )
        groups.setdefault(key, []).append(name)
    return [
        ParameterGroup(tuple(names), tuple(trainable[name] for name in names), *key)
        for key, names in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "pos_bias" not in name


def of_longest_prefix(name: str, values: Mapping[str, float], default: float) -> float:
    """The value of the longest prefix the dotted name lies under, or the default."""
    matching = [prefix for prefix in values if under(name, prefix)]
    return values[max(matching, key=len)] if matching else default
