"""Reading a tar archive from a stranger: nothing is unpacked, and every size is bounded before it is believed.

Only headers are walked; a member is read where it lies. Links, devices, sparse files, names that leave the
archive, names that come twice and gzip bombs are refused.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from aronnax.core.errors import CheckpointError
from aronnax.core.hub import WHAT_IS_A_MODEL

MAX_FILE = 64 * 2**20
"""Largest member that is read into memory, in bytes: tokenizers and configurations."""
_MAX_MEMBERS = 10_000
_MAX_NAME = 2**16
_MAX_TOGETHER = 4 * MAX_FILE
# Floating-point weights hardly shrink; only an archive made to explode unfolds to more than this.
_GZIP_FREE, _GZIP_RATIO = 64 * 2**20, 20
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20


@dataclass
class Region:
    """Where a member's bytes lie."""

    path: Path
    offset: int
    size: int


@dataclass
class Archive:
    """The members of a `.nemo`: a plain tar, a gzip tar, or a folder it was unpacked into."""

    path: Path
    kind: str
    sizes: dict[str, int] = field(default_factory=dict)
    """Size in bytes of every file, by its name without a leading `./`."""
    regions: dict[str, Region] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """The content of a small member."""
        if name not in self.sizes:
            raise CheckpointError(f"{self.path} holds no {name}")
        if self.sizes[name] > MAX_FILE:
            raise CheckpointError(
                f"{self.path}: {name} has {self.sizes[name]} bytes, too many for such a file"
            )
        if name in self.contents:
            return self.contents[name]
        region = self.regions[name]
        with region.path.open("rb") as file:
            file.seek(region.offset)
            content = file.read(region.size)
        if len(content) != region.size:
            raise CheckpointError(f"{self.path} is truncated inside {name}")
        return content


@contextmanager
def open_archive(path: Path, large: str) -> Iterator[Archive]:
    """The archive at `path`; of a gzip one, only the member `large` goes to disk, into a temporary file."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        regions = {file.name: Region(file, 0, file.stat().st_size) for file in files}
        yield Archive(path, "folder", {name: region.size for name, region in regions.items()}, regions)
        return
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            yield _index_plain(path, file)
            return
        file.seek(0)
        with tempfile.TemporaryDirectory(prefix="aronnax-") as folder:
            yield _index_gzip(path, file, large, Path(folder) / "weights")


def _index_plain(path: Path, file: BinaryIO) -> Archive:
    total = path.stat().st_size
    archive = Archive(path, "tar")
    for name, size in _members(path, file):
        offset = file.tell()
        if offset + size > total:
            raise CheckpointError(
                f"{path} is truncated: {name} ends {offset + size - total} bytes after the file"
            )
        _enter(archive, name, size)
        archive.regions[name] = Region(path, offset, size)
        file.seek(offset + _padded(size))
    return archive


def _index_gzip(path: Path, file: BinaryIO, large: str, scratch: Path) -> Archive:
    archive = Archive(path, "gzip tar")
    stream = _Unzipped(file, path, _GZIP_FREE + _GZIP_RATIO * path.stat().st_size)
    kept = 0
    for name, size in _members(path, stream):
        _enter(archive, name, size)
        if name == large:
            with scratch.open("wb") as out:
                stream.copy(size, out)
            archive.regions[name] = Region(scratch, 0, size)
        elif size <= MAX_FILE and kept + size <= _MAX_TOGETHER and not name.endswith(".ckpt"):
            archive.contents[name] = stream.exactly(size)
            kept += size
        else:
            stream.copy(size, None)
        stream.copy(_padded(size) - size, None)
    return archive


def _enter(archive: Archive, name: str, size: int) -> None:
    if name in archive.sizes:
        raise CheckpointError(f"{archive.path} holds {name} twice; a checkpoint has each file once")
    archive.sizes[name] = size


class _Unzipped:
    """The forward-only decompressed stream, which stops a bomb at `budget` bytes."""

    def __init__(self, file: BinaryIO, path: Path, budget: int) -> None:
        self.stream = gzip.GzipFile(fileobj=file, mode="rb")
        self.path = path
        self.budget = budget

    def read(self, size: int) -> bytes:
        self.budget -= size
        if self.budget < 0:
            raise CheckpointError(
                f"{self.path} unfolds to far more than weights do: it looks like a gzip bomb"
            )
        try:
            return self.stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise CheckpointError(f"{self.path} is damaged or truncated: {error}") from None

    def exactly(self, size: int) -> bytes:
        content = self.read(size)
        if len(content) != size:
            raise CheckpointError(f"{self.path} is truncated")
        return content

    def copy(self, size: int, out: BinaryIO | None) -> None:
        while size > 0:
            chunk = self.exactly(min(size, _CHUNK))
            size -= len(chunk)
            if out is not None:
                out.write(chunk)


def _members(path: Path, stream: BinaryIO | _Unzipped) -> Iterator[tuple[str, int]]:
    """Walk the headers, yielding every regular file with the stream at its first byte."""
    extended: dict[str, str] = {}
    for count in range(_MAX_MEMBERS + 1):
        header = _header(path, stream, first=count == 0)
        if header is None:
            return
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            extended = {**extended, **_extension(path, stream, header)}
            continue
        size = int(extended.get("size", header.size))
        name = _plain_name(path, extended.get("path", header.name))
        extended = {}
        if header.type == tarfile.DIRTYPE:
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise CheckpointError(
                f"{path}: {name} is a link, a device or another special entry; checkpoints hold only files"
            )
        if size < 0:
            raise CheckpointError(f"{path}: {name} has a negative size")
        yield name, size
    raise CheckpointError(f"{path} has more than {_MAX_MEMBERS} entries; no checkpoint does")


def _header(path: Path, stream: BinaryIO | _Unzipped, first: bool) -> tarfile.TarInfo | None:
    block = stream.read(_BLOCK)
    if block == bytes(_BLOCK) or (not block and not first):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if first:
            raise CheckpointError(
                f"{path} is not a model: it is not a .nemo archive (neither a tar nor a gzip tar); {WHAT_IS_A_MODEL}"
            ) from None
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from None


def _extension(path: Path, stream: BinaryIO | _Unzipped, header: tarfile.TarInfo) -> dict[str, str]:
    """What a pax or GNU header says about the next member; only its name and its size matter."""
    if not 0 <= header.size <= _MAX_NAME:
        raise CheckpointError(f"{path} has a tar extension header of {header.size} bytes")
    content = stream.read(_padded(header.size))[: header.size]
    if header.type == tarfile.XGLTYPE:
        return {}
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found = {}
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(content):
            raise CheckpointError(f"{path} has a damaged tar extension header")
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        content = content[int(length) :]
        if key.startswith(b"GNU.sparse"):
            raise CheckpointError(f"{path} holds a sparse file; checkpoints hold only plain files")
        if key == b"path" or (key == b"size" and value.isdigit()):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
    return found


def _plain_name(path: Path, name: str) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name or "\\" in name:
        raise CheckpointError(f"{path}: the entry {name!r} does not stay inside the archive")
    return str(parts)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class Window:
    """Part of a file as a seekable read-only file of its own: what `torch.load` and `zipfile` ask for."""

    def __init__(self, file: BinaryIO, region: Region) -> None:
        self.file = file
        self.start = region.offset
        self.size = region.size
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the start, the position or the end; the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """The position, counted from the window's start."""
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, or all that are left in the window."""
        left = max(0, self.size - self.position)
        size = left if size is None or size < 0 else min(size, left)
        self.file.seek(self.start + self.position)
        content = self.file.read(size)
        self.position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the window goes; the number of bytes."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self.size - self.position))
        self.file.seek(self.start + self.position)
        got: int = self.file.readinto(view[:count])  # type: ignore[attr-defined]
        self.position += got
        return got

    def readline(self) -> bytes:
        """The bytes up to the next line break, within the window."""
        self.file.seek(self.start + self.position)
        line = self.file.readline(max(0, self.size - self.position))
        self.position += len(line)
        return line

    def readable(self) -> bool:
        """Always: it can be read."""
        return True

    def seekable(self) -> bool:
        """Always: it can be moved in."""
        return True
