"""A checkpoint folder: `config.yaml`, `model.safetensors`, the model's assets and a model card.

A save is atomic: everything is written and synced under `.saving-*` inside the folder, one rename to `.saved`
commits it, and only then do the files move up to their places. A reader looks into `.saved` first, so a crash at
any moment leaves either the whole old checkpoint or the whole new one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax import __version__
from aronnax.core import registry
from aronnax.core.config import from_dict, to_dict
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.files import cannot_save, follow_umask, sync_file, sync_folder, write_synced
from aronnax.core.hub import WHAT_IS_A_MODEL
from aronnax.core.parts import Parts, constant_names
from aronnax.core.references import borrowed, without_borrowed
from aronnax.core.safe_yaml import MAX_BYTES, dump_yaml, parse_mapping

if TYPE_CHECKING:
    from aronnax.core.model import Model

CONFIG, WEIGHTS, CARD = "config.yaml", "model.safetensors", "README.md"
_SAVED, _SAVING = ".saved", ".saving-"
_MAX_ASSET = 64 * 2**20


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of ours."""
    return _find(folder, CONFIG).is_file() and _find(folder, WEIGHTS).is_file()


def read(folder: Path) -> Parts:
    """Open a checkpoint folder; the weights stay in the file until they are used.

    Raises:
        CheckpointError: a file is missing, truncated, or of another kind.
        ConfigError: a configuration key is unknown or ill-typed.
    """
    header = read_header(folder)
    model_type = header["model_type"]
    cls = registry.model_class(model_type)
    config: Any = from_dict(cls.Config, header["config"], f"{folder / CONFIG}: config")
    tensors, metadata = read_safetensors(_find(folder, WEIGHTS))
    references = cls.references(config)
    shared = borrowed(references, tensors)
    names = sorted({reference.name for reference in references.values()})
    return Parts(
        where=str(folder),
        model_type=model_type,
        config=config,
        assets=_read_assets(folder, header.get("assets", [])),
        tensors={**tensors, **shared},
        details={
            "format": "aronnax folder",
            "written by": f"aronnax {header.get('aronnax_version', 'unknown')}",
            **({"shares": f"weights with {', '.join(names)}"} if names else {}),
            **{key: value for key, value in metadata.items() if key != "format"},
        },
    )


def read_header(folder: Path) -> dict[str, Any]:
    """The content of `config.yaml`: model_type, aronnax_version, assets, config."""
    path = _find(folder, CONFIG)
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a model: it holds no {CONFIG} (nor model_config.yaml or config.json, as NeMo's and "
            f"transformers' folders do); {WHAT_IS_A_MODEL}"
        )
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path} is larger than any configuration")
    try:
        header = parse_mapping(path.read_bytes(), str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(header.get("model_type"), str) or not isinstance(header.get("config"), dict):
        raise CheckpointError(
            f"{path} lacks `model_type` or `config`: it is not a configuration aronnax wrote"
        )
    return header


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (memory-mapped) and metadata of a safetensors file; CheckpointError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint has no weights")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from None


def save(model: Model, folder: Path, card: str | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write `model` into `folder` atomically; CheckpointError, with the old checkpoint intact, if that fails."""
    from safetensors import SafetensorError

    staging = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        staging = Path(tempfile.mkdtemp(prefix=_SAVING, dir=folder))
        _write(model, staging, card, dtype)
        os.replace(staging, folder / _SAVED)
        sync_folder(folder)
        _recover(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise cannot_save(folder, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _write(model: Model, staging: Path, card: str | None, dtype: torch.dtype | None) -> None:
    from safetensors.torch import save_file

    assets = model.assets()
    header = {
        "model_type": model.model_type,
        "aronnax_version": __version__,
        "assets": sorted(assets),
        "config": to_dict(model.config),
    }
    write_synced(staging / CONFIG, dump_yaml(header).encode())
    for name, content in assets.items():
        write_synced(staging / _inside(name), content)
    write_synced(staging / CARD, (card or _card(model)).encode())
    save_file(_to_store(model, dtype), str(staging / WEIGHTS), metadata={"format": "pt"})
    follow_umask(staging / WEIGHTS)
    sync_file(staging / WEIGHTS)
    for place in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        sync_folder(place)


def _to_store(model: Model, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Every weight of its own once, contiguous, on the CPU, in `dtype` where it is a floating-point number."""
    stored: dict[str, Tensor] = {}
    constants = constant_names(model)
    once: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        once.setdefault(id(tensor), name)
    own = without_borrowed(
        model.references(model.config), {name: state[name].detach().cpu() for name in once.values()}
    )
    for name, plain in own.items():
        if dtype is not None and plain.is_floating_point() and name not in constants:
            plain = plain.to(dtype)
        stored[name] = plain.contiguous()
    return stored


def _recover(folder: Path) -> None:
    """Finish a save that was committed but not moved up, and sweep away what an interrupted one left."""
    committed = folder / _SAVED
    if committed.is_dir():
        for source in sorted(path for path in committed.rglob("*") if path.is_file()):
            target = folder / source.relative_to(committed)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
        sync_folder(folder)
        shutil.rmtree(committed)
    for leftover in folder.glob(f"{_SAVING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _find(folder: Path, name: str) -> Path:
    committed = folder / _SAVED / name
    return committed if committed.is_file() else folder / name


def _read_assets(folder: Path, names: Any) -> dict[str, bytes]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{folder / CONFIG}: `assets` must be a list of file names")
    assets = {}
    for name in names:
        path = _find(folder, str(_inside(name)))
        if not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}, which its {CONFIG} names")
        if path.stat().st_size > _MAX_ASSET:
            raise CheckpointError(f"{path} is larger than any tokenizer file")
        assets[name] = path.read_bytes()
    return assets


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts or ":" in name:
        raise CheckpointError(f"asset name {name!r} does not stay inside the checkpoint folder")
    return path


def _card(model: Model) -> str:
    return (
        f"# {model.model_type} model\n\n"
        f"{model.num_parameters():,} parameters, written by aronnax {__version__}.\n\n"
        '```python\nimport aronnax\n\nmodel = aronnax.load("this folder")\n```\n'
    )


def describe_types(tensors: Mapping[str, Tensor]) -> str:
    """The floating-point types of stored weights with their share, e.g. `float16 99 %, float32 1 %`."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            name = str(tensor.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + tensor.numel()
    total = sum(counts.values()) or 1
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in sorted(counts.items()))
