"""Weights that a checkpoint does not hold itself, because another one has the very same.

Small models may share a language model or an encoder: each names the checkpoint, and stores what differs from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aronnax.core.errors import CheckpointError

_OPEN: ContextVar[tuple[str, ...]] = ContextVar("checkpoints being read", default=())


@dataclass(frozen=True)
class Reference:
    """Where the tensors below a prefix of a model come from."""

    name: str
    """A checkpoint: a bundled name, a hub id or a path."""
    prefix: str = ""
    """What stands there in place of the model's own prefix."""
    rename: Callable[[str], str] | None = None
    """Name there -> the model's own, where adapters wrap layers: `q.weight` -> `q.base_layer.weight`."""


def borrowed(references: Mapping[str, Reference], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the checkpoints referred to, by the model's names, that `own` lacks.

    Raises:
        CheckpointError: a checkpoint cannot be read, or refers back to one that is being read.
    """
    return {name: tensor for name, tensor in _referred(references) if name not in own}


def without_borrowed(references: Mapping[str, Reference], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that differ from those of the checkpoints referred to, or are not in them."""
    theirs = dict(_referred(references))
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in theirs or not _same(tensor, theirs[name])
    }


def _referred(references: Mapping[str, Reference]) -> Iterator[tuple[str, Tensor]]:
    for prefix, reference in references.items():
        for name, tensor in _tensors(reference.name).items():
            if name.startswith(reference.prefix):
                rest = name.removeprefix(reference.prefix)
                yield prefix + (reference.rename(rest) if reference.rename else rest), tensor


def _tensors(name: str) -> Mapping[str, Tensor]:
    from aronnax.core import hub
    from aronnax.core.loading import open_parts

    path = hub.resolve(name)
    with _reading(path, name):
        return open_parts(path).tensors


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    place = str(path.resolve())
    before = _OPEN.get()
    if place in before:
        raise CheckpointError(f"it refers to {name}, which refers back to it: neither holds all its weights")
    token = _OPEN.set((*before, place))
    try:
        yield
    finally:
        _OPEN.reset(token)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if one.is_floating_point() and other.is_floating_point():
        return torch.equal(one.double(), other.double())
    return one.dtype == other.dtype and torch.equal(one, other)
