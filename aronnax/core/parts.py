"""What every checkpoint format is read into, and how a model is made of it with one copy of the weights in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aronnax.core.errors import AronnaxError, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aronnax.core.model import Model

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Parts:
    """A checkpoint opened but not yet built; `tensors` may still lie in the file (memory-mapped)."""

    where: str
    model_type: str
    config: Any
    """The typed config of the model."""
    assets: dict[str, bytes]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """What a reader should know, such as a second model in the archive that was left out."""
    details: dict[str, str] = field(default_factory=dict)
    """Facts for `aronnax info`: format, NeMo class and version, stored types."""


# Filling a tensor that has no memory does nothing, except that PyTorch imports its compiler to do it: a second.
_FILLS = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"}


class _Empty(TorchFunctionMode):
    """Puts what `torch.empty` makes (parameters) on the meta device and leaves computed constants real.

    A module may therefore compute tables in its constructor, which plain `torch.device("meta")` would lose.
    `budget` bounds the parameters, so that a hostile configuration cannot ask for a million layers.
    """

    def __init__(self, budget: int, count: int) -> None:
        super().__init__()
        self.budget = budget
        self.count = count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
            made = func(*args, **kwargs)
            self.budget -= made.numel()
            self.count -= 1
            if self.budget < 0 or self.count < 0:
                raise CheckpointError(
                    "the configuration describes a larger model than the file has weights for"
                )
            return made
        filled = kwargs.get("tensor", args[0] if args else None)
        if getattr(func, "__name__", "") in _FILLS and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **kwargs)


def assemble(cls: type[Model], parts: Parts, dtype: torch.dtype | None = None) -> Model:
    """Build `cls` without weights and give it those of `parts`; CheckpointError names whatever does not fit.

    `dtype` None means float32 for weights stored in half precision.
    """
    total = sum(tensor.numel() for tensor in parts.tensors.values())
    # Tied weights are stored once; the slack lets a small model miss a tensor and be told which.
    guard = _Empty(budget=4 * total + 2**26, count=8 * len(parts.tensors) + 4096)
    with explained(parts.where), guard:
        model = cls.build(parts.config, parts.assets)
    ties = _ties(model)
    state = _fit(model, parts, ties)
    model.load_state_dict(_cast(model, state, dtype), strict=False, assign=True)
    for name, original in ties.items():
        _set(model, name, original)
    left = [name for name, tensor in _tensors(model) if tensor.is_meta]
    if left:
        raise CheckpointError(f"{parts.where} gives no value for {_some(left)}")
    return model.eval()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn whatever a damaged or invented checkpoint provokes in the block into one CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        if where in str(error):
            raise
        raise CheckpointError(f"{where}: {error}") from None
    except AronnaxError:
        raise
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise CheckpointError(f"{where} is not a checkpoint that can be built: {error}") from error


def _ties(model: nn.Module) -> dict[str, str]:
    """Names that are another name's very parameter: {second name: first name}."""
    first: dict[int, str] = {}
    ties = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            ties[name] = first[id(parameter)]
    return ties


def _fit(model: nn.Module, parts: Parts, ties: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors to assign, by our names, after comparing names and shapes both ways."""
    wanted = model.state_dict(keep_vars=True)
    given = parts.tensors
    buffers = {name for name, _ in model.named_buffers()}
    missing = [
        name
        for name in wanted
        if name not in given
        and not (name in buffers and not wanted[name].is_meta and not name.endswith(_STATISTICS))
        and not (name in ties and ties[name] in given)
    ]
    unexpected = [name for name in given if name not in wanted and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} is {_shape(given[name])} in the file and {_shape(wanted[name])} in the model"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"missing {_some(missing)}")
    if unexpected:
        problems.append(f"not part of this model: {_some(unexpected)}")
    if shapes:
        problems.append(f"wrong shape: {_some(shapes)}")
    if problems:
        raise CheckpointError(f"{parts.where} does not fit its configuration; " + "; ".join(problems))
    return {name: given[name] for name in wanted if name in given and name not in ties}


def constant_names(model: nn.Module) -> set[str]:
    """Buffers of modules that have no weights of their own: filterbanks and windows, which rounding would spoil."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if not list(module.parameters(recurse=False))
        for name, _ in module.named_buffers(recurse=False)
    }


def _cast(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Floating-point weights as `dtype`; constants stay float32."""
    constants = constant_names(model)
    cast = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            cast[name] = tensor
        elif dtype is None or name in constants:
            cast[name] = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        else:
            cast[name] = tensor.to(dtype)
    return cast


def _set(model: nn.Module, name: str, original: str) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, model.get_parameter(original))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
