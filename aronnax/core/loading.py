"""`load`: a name -> a model ready to infer, whatever format the checkpoint has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from aronnax.core import checkpoint, hub, registry
from aronnax.core.errors import CheckpointError, OptionError
from aronnax.core.parts import Parts, assemble, explained
from aronnax.core.quantise import check_weights, quantise

if TYPE_CHECKING:
    from aronnax.core.model import Model


def load(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    weights: str | None = None,
    revision: str | None = None,
    expected: type[Model] | None = None,
) -> Model:
    """A model in evaluation mode from a bundled name, a folder, a `.nemo` file or a Hugging Face hub id.

    Args:
        device: where to put it; CUDA if there is one, else the CPU.
        dtype: floating-point type of the weights; float32 when they are stored in half precision.
        weights: `"int8"` or `"int16"` quantises the linear layers to so many bits (CPU only; int16 needs AMX).
        revision: branch, tag or commit on the hub.
        expected: class the checkpoint must hold.

    Raises:
        HubError: the name leads nowhere.
        CheckpointError: the checkpoint is damaged, hostile, or of another family.
        ConfigError: its configuration holds an option that is not supported.
        OptionError: the device is not known or not there, the dtype is a name, or the weights do not run there.
    """
    device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise OptionError(f"dtype={dtype!r} is not a type of torch; pass dtype=torch.bfloat16, say")
    if weights is not None:
        check_weights(weights)
        if device.type != "cpu":
            raise OptionError(f"weights={weights!r} runs on the CPU only; pass device='cpu'")
    parts = open_parts(hub.resolve(str(name), revision=revision))
    cls = registry.model_class(parts.model_type)
    if expected is not None and not issubclass(cls, expected):
        raise CheckpointError(
            f"{name} holds a {parts.model_type} model ({cls.__name__}), not a {expected.__name__}; "
            "aronnax.load takes any family"
        )
    model = assemble(cls, parts, dtype).to(device)
    model.source = str(name)
    if weights is not None:
        quantise(model, weights)
    return model


def _usable(device: str | torch.device) -> torch.device:
    """The device, once something could be put there."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise OptionError(f"device={str(device)!r} is not known: use cpu, cuda, cuda:1, mps, ...") from None
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise OptionError(
            f"device={str(device)!r} cannot be used here ({reason}); device='cpu' always can"
        ) from None
    return found


def open_parts(path: Path) -> Parts:
    """Open any checkpoint by what it holds: our folder, `.nemo` (packed or not), transformers' layout."""
    with explained(str(path)):
        return _open(path)


def _open(path: Path) -> Parts:
    from aronnax.core import nemo

    if path.is_file():
        return nemo.read(path)
    if checkpoint.is_checkpoint(path):
        return checkpoint.read(path)
    if (path / nemo.CONFIG).is_file():
        return nemo.read(path)
    if (path / "config.json").is_file():
        return registry.layout(transformers_type(path / "config.json")).read(path)
    # Reports precisely what is missing.
    return checkpoint.read(path)


def transformers_type(path: Path) -> str:
    """The `model_type` of a transformers config.json; older ones of NeMo's speech language models have none."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind is None and isinstance(data, dict) and {"pretrained_llm", "perception"} <= data.keys():
        return registry.NEMO_SPEECHLM
    if not isinstance(kind, str):
        raise CheckpointError(f"{path} names no model_type")
    return kind
