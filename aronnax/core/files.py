"""Writing files so that a crash, a kill or a full disk leaves what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aronnax.core.errors import CheckpointError


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_save(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until a file that something else wrote is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def follow_umask(path: Path) -> None:
    """Give a file the permissions that a newly made one has: some writers make theirs readable by the owner alone."""
    probe = path.with_name(path.name + ".mode")
    probe.touch()
    path.chmod(probe.stat().st_mode)
    probe.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk (where the system can: not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_save(path: Path, error: Exception) -> CheckpointError:
    """The one sentence for a save that failed."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(f"cannot save {path}: {reason}; what was there before is unchanged")
