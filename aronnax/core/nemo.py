"""NVIDIA `.nemo` archives, read without NeMo and without trusting them, and written so that NeMo restores them."""

from __future__ import annotations

import re
import tarfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import Tensor

from aronnax.core import registry
from aronnax.core.archive import Archive, open_archive
from aronnax.core.config import from_dict, to_dict
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.files import cannot_save, replaced_file
from aronnax.core.parts import Parts
from aronnax.core.safe_yaml import MAX_BYTES, dump_yaml, parse_mapping
from aronnax.core.weights_file import is_weights_name, read_weights, save_weights

if TYPE_CHECKING:
    from aronnax.core.model import Model

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_HASHED = re.compile(r"[0-9a-f]{32}_(.+)")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def read(path: Path) -> Parts:
    """Open a `.nemo` file, or the folder one was unpacked into; the weights stay in it until they are used.

    Raises:
        CheckpointError: it is damaged, hostile, or of a family that is not loaded.
        ConfigError: its configuration holds an option that is not supported.
    """
    with open_archive(path, WEIGHTS) as archive:
        nemo = _config(archive)
        parts, family = _parts(archive, nemo, WEIGHTS)
        used = [WEIGHTS]
        for prefix, name in family.companions.items():
            weights = f"{prefix}_weights.ckpt"
            if nemo.get(f"restore_{prefix}", True) and weights in archive.regions:
                parts = _joined(
                    parts, name, _parts(archive, _config(archive, f"{prefix}_config.yaml"), weights)[0]
                )
                used.append(weights)
        return replace(parts, notes=_left_out(archive, used))


def _parts(archive: Archive, nemo: dict[str, Any], weights: str) -> tuple[Parts, registry.NemoFamily]:
    """One model of an archive."""
    path = archive.path
    family = _family(nemo, path)
    try:
        config = family.config_from_nemo(nemo)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    parts = Parts(
        where=str(path),
        model_type=family.model_type,
        config=config,
        assets=family.assets_from_nemo(nemo, _reader(archive)),
        tensors=_weights(archive, family, weights),
        details={
            "format": f".nemo ({archive.kind})",
            "NeMo class": str(nemo["target"]).rpartition(".")[2],
            "written by": f"NeMo {nemo.get('nemo_version', 'of unknown version')}",
        },
    )
    return parts, family


def _joined(parts: Parts, name: str, second: Parts) -> Parts:
    """A model's parts with those of a second one under `name`; ConfigError if that is of a family it cannot be."""
    config = to_dict(parts.config) | {name: to_dict(second.config)}
    try:
        joined = from_dict(type(parts.config), config)
    except ConfigError as error:
        raise ConfigError(
            f"{parts.where}: the second model, a {second.model_type}, does not fit: {error}"
        ) from None
    return replace(
        parts,
        config=joined,
        assets=parts.assets | {f"{name}/{file}": content for file, content in second.assets.items()},
        tensors=parts.tensors | {f"{name}.{key}": tensor for key, tensor in second.tensors.items()},
        details=parts.details | {name: f"{second.details['NeMo class']} in the same archive"},
    )


def read_config(path: Path) -> dict[str, Any]:
    """The `model_config.yaml` of an archive as plain data."""
    with open_archive(path, WEIGHTS) as archive:
        return _config(archive)


def save(model: Model, path: Path) -> Path:
    """Write `model` as a `.nemo` archive, atomically; CheckpointError if NeMo has no counterpart for it."""
    family = registry.nemo_writer(model.model_type)
    state = model.state_dict()
    small, large = _members(model, CONFIG), {WEIGHTS: state}
    for prefix, name in family.companions.items():
        second = getattr(model, name)
        if second is not None:
            small |= _members(second, f"{prefix}_config.yaml")
            large[f"{prefix}_weights.ckpt"] = second.state_dict()
            large[WEIGHTS] = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
    try:
        with replaced_file(path) as file:
            for name, content in small.items():
                _add_bytes(file, name, content)
            for name, tensors in large.items():
                _add(file, name, partial(save_weights, tensors))
            file.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    except RuntimeError as error:  # torch.save reports a failed write as one
        raise cannot_save(path, error) from error
    return path


def _members(model: Model, config_name: str) -> dict[str, bytes]:
    """The configuration of one model and the files it refers to, by their names in the archive."""
    family = registry.nemo_writer(model.model_type)
    assets = model.assets()
    nemo = family.config_to_nemo(model.config, assets)
    files: dict[str, bytes] = {}
    for key, (name, content) in family.assets_to_nemo(assets).items():
        hashed = f"{uuid.uuid4().hex}_{PurePosixPath(name).name}"
        files[hashed] = content
        _put(nemo, key, f"nemo:{hashed}")
    return {config_name: dump_yaml(nemo).encode(), **files}


def _add_bytes(file: BinaryIO, name: str, content: bytes) -> None:
    _add(file, name, lambda out: out.write(content))


class _Counting:
    """A write-only file whose position is counted from where it began: a zip inside a tar."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, content: Any) -> int:
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _add(file: BinaryIO, name: str, write: Callable[[Any], Any]) -> None:
    """Append one member, its size known only after it is written: no second copy on disk or in memory."""
    header_at = file.tell()
    file.write(b"\0" * tarfile.BLOCKSIZE)
    write(_Counting(file))
    end = file.tell()
    info = tarfile.TarInfo(f"./{name}")
    info.size = end - header_at - tarfile.BLOCKSIZE
    info.mtime = int(time.time())
    file.seek(header_at)
    file.write(info.tobuf(tarfile.GNU_FORMAT))
    file.seek(end)
    file.write(b"\0" * (-info.size % tarfile.BLOCKSIZE))


def _config(archive: Archive, name: str = CONFIG) -> dict[str, Any]:
    if name not in archive.sizes:
        raise CheckpointError(f"{archive.path} holds no {name}: it is not a NeMo checkpoint")
    if archive.sizes[name] > MAX_BYTES:
        raise CheckpointError(f"{archive.path}: {name} is larger than any configuration")
    try:
        nemo = parse_mapping(archive.read(name), f"{archive.path}: {name}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if isinstance(nemo.get("model"), dict) and "encoder" not in nemo:
        nemo = {**{key: nemo[key] for key in ("target", "nemo_version") if key in nemo}, **nemo["model"]}
    resolved = _resolve(nemo, nemo)
    assert isinstance(resolved, dict)
    return resolved


def _family(nemo: Mapping[str, Any], path: Path) -> registry.NemoFamily:
    if not isinstance(nemo.get("target"), str):
        raise CheckpointError(f"{path}: {CONFIG} names no model class (`target`)")
    try:
        return registry.nemo_family(nemo["target"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _resolve(value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Replace `${a.b}` by what it points at; NeMo resolves when saving, only its oldest archives did not."""
    if isinstance(value, dict):
        return {key: _resolve(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root, depth) for item in value]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    found: Any = root
    for key in match.group(1).removeprefix("model.").split("."):
        if not isinstance(found, Mapping) or key not in found:
            return value
        found = found[key]
    # A reference may point at another one, but only at a plain value: nothing here can unfold without end.
    return _resolve(found, root, depth + 1) if depth < 8 and isinstance(found, str) else found


def _reader(archive: Archive) -> registry.ReadFile:
    """Reads what a configuration refers to: `nemo:<hash>_name`, a bare name, or a path on the training machine."""
    by_plain_name: dict[str, str] = {}
    for name in archive.sizes:
        match = _HASHED.fullmatch(name)
        by_plain_name.setdefault(match.group(1) if match else name, name)

    def read_file(reference: str) -> bytes:
        wanted = str(PurePosixPath(reference.removeprefix("nemo:")))
        if wanted in archive.sizes:
            return archive.read(wanted)
        base = PurePosixPath(wanted).name
        hashed = _HASHED.fullmatch(base)
        for name in (base, hashed.group(1) if hashed else base):
            if name in archive.sizes:
                return archive.read(name)
            if name in by_plain_name:
                return archive.read(by_plain_name[name])
        raise CheckpointError(f"{archive.path} lacks the file {base}, which its {CONFIG} refers to")

    return read_file


def _weights(archive: Archive, family: registry.NemoFamily, member: str) -> dict[str, Tensor]:
    if member not in archive.regions:
        raise CheckpointError(f"{archive.path} holds no {member}: the archive is incomplete")
    tensors = {}
    for name, tensor in read_weights(archive.regions[member], str(archive.path)).items():
        ours = family.rename(name)
        if ours is not None:
            tensors[ours] = tensor
    return tensors


def _left_out(archive: Archive, used: Collection[str]) -> tuple[str, ...]:
    return tuple(
        f"a second model in the archive was left out: {name} ({size / 1e6:.0f} MB)"
        for name, size in archive.sizes.items()
        if name not in used and is_weights_name(name)
    )


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, leaf = dotted.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[leaf] = value
