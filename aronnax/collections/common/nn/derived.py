"""Tensors that are computed from parameters once and kept until one of the parameters changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class _Entry(NamedTuple):
    mark: tuple[Any, ...]
    sources: tuple[Tensor, ...]
    values: dict[Hashable, Any]


class Derived:
    """Holds values computed from parameters, for inference only; never part of a state dict.

    The values are kept together with the identity, version and storage of every source tensor, and computed
    anew when any of them differs. A change through `.data`, which torch does not count, shows after the next
    `train()` or `eval()` (see `forget_derived`). Threads may race to compute a value; all compute the same.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def get(self, sources: Sequence[Tensor], compute: Callable[[], Any], key: Hashable = None) -> Any:
        """The value of `compute()` for these sources and this key, computed afresh where nothing is kept."""
        if not self.keeps(sources):
            return compute()
        mark = tuple((s._version, s.data_ptr(), s.dtype, s.device) for s in sources)
        entry = self._entry
        fresh = (
            entry is not None and entry.mark == mark and all(a is b for a, b in zip(entry.sources, sources))
        )
        values = entry.values if fresh and entry is not None else {}
        if key not in values:
            values = {**values, key: compute()}
            self._entry = _Entry(mark, tuple(sources), values)
        return values[key]

    def keeps(self, sources: Sequence[Tensor]) -> bool:
        """Whether a value for these sources would be kept: not while gradients are recorded.

        Nor for tensors made in inference mode, whose versions are not counted.
        """
        return not (torch.is_grad_enabled() or any(source.is_inference() for source in sources))

    def clear(self) -> None:
        """Forgets all values."""
        self._entry = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_entry": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Derived:
        return Derived()


def forget_derived(module: nn.Module) -> None:
    """Clears every `Derived` held by `module` and the modules inside it."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Derived):
                value.clear()
