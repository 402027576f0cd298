"""What every call that has a model hear, tell or answer checks first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from aronnax.core.errors import OptionError


def check_mode(model: nn.Module) -> None:
    """OptionError if the model is in training mode."""
    if model.training:
        raise OptionError("the model is in training mode, where dropout is active: call model.eval() first")


def at_least_one(name: str, value: Any) -> int:
    """The value of the option `name`; OptionError unless it is a whole number of at least 1.

    >>> at_least_one("batch_size", 4)
    4
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(f"{name}={value!r} must be a whole number of at least 1")
    return value


def check_known(name: str, value: Any, known: Sequence[Any]) -> None:
    """OptionError unless the value of the option `name` is one of those known.

    >>> check_known("vad", "energy", ("energy", "silero", None))
    """
    if value not in known:
        raise OptionError(f"{name}={value!r} is not known: use one of {', '.join(map(repr, known))}")
