"""Tensors out of a PyTorch weights file inside an archive, memory-mapped where it lies; no code in it is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aronnax.core.archive import Region, Window
from aronnax.core.errors import CheckpointError


def read_weights(region: Region, where: str) -> dict[str, Tensor]:
    """A flat mapping of names to tensors; CheckpointError for a damaged file or one that holds anything else."""
    with region.path.open("rb") as file:
        window: Any = Window(file, region)
        zipped = window.read(2) == b"PK"
        window.seek(0)
        try:
            if zipped:
                _check_zip(window, where)
                state = _checked(torch.load(window, map_location="meta", weights_only=True), where)
                mapped = _map(state, region, where)
                if mapped is not None:
                    return mapped
                window.seek(0)
            return _checked(torch.load(window, map_location="cpu", weights_only=True), where)
        except CheckpointError:
            raise
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{where}: the weights file holds more than tensors and was not loaded: {_first(error)}"
            ) from None
        except Exception as error:  # damaged bytes can provoke anything in the unpickler
            raise CheckpointError(
                f"{where}: the weights file is damaged or truncated: {_first(error)}"
            ) from None


def _check_zip(window: Any, where: str) -> None:
    """PyTorch stores its records as they are; a compressed record or one past the end is not its work."""
    with zipfile.ZipFile(window) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"{where}: the weights file is a compressed zip, which PyTorch never writes")
    if sum(record.file_size for record in records) > window.size:
        raise CheckpointError(f"{where}: the weights file claims more bytes than it has")
    window.seek(0)


def _checked(state: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{where}: the weights file is not a mapping of names to tensors")
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain:
            raise CheckpointError(f"{where}: {name!r} in the weights file is not a plain tensor")
    return {name: tensor.detach() for name, tensor in state.items()}


def _map(state: dict[str, Tensor], region: Region, where: str) -> dict[str, Tensor] | None:
    """Tensors over the file's own pages (private: writing to them never reaches the file).

    None where this PyTorch does not tell a record's offset, or a record is not aligned to its type.
    """
    whole = torch.UntypedStorage.from_file(str(region.path), False, region.offset + region.size)
    mapped = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        offset = getattr(storage, "_checkpoint_offset", None)
        if offset is None or (region.offset + offset) % tensor.element_size():
            return None
        if offset + storage.nbytes() > region.size:
            raise CheckpointError(f"{where}: {name} lies beyond the end of the weights file")
        start = region.offset + offset
        mapped[name] = torch.empty(0, dtype=tensor.dtype).set_(
            whole[start : start + storage.nbytes()],
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
        )
    return mapped


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def save_weights(tensors: dict[str, Tensor], file: Any) -> None:
    """Write the file that PyTorch and NeMo read, to an open binary file."""
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def is_weights_name(name: str) -> bool:
    """Whether a member of an archive is a weights file."""
    return Path(name).suffix in (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
