"""Products of whole numbers by AMX, and attention made of them: `tiles.c` and `tiles_attention.c`.

An input is rounded in one pass, and sums become floats at once. `M` rows of an input, `N` outputs, `K` inputs, `P`
planes: 2 for numbers of 16 bits, 1 for those of 8. The library is built when aronnax is installed, where there is a
compiler; without it oneDNN and floats take its place.
"""

from __future__ import annotations

import ctypes
import warnings
import zlib
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aronnax.core.errors import OptionError

EDGE, DEPTH = 16, 64
"""Rows or outputs of a tile, and its columns along the inputs."""

LARGEST = {1: 127, 2: 32639}
"""Of a number of so many planes: with it no byte overflows when 128 is added."""

THEN = {"none": 0, "relu": 1, "swish": 2}

SOURCES = ("tiles.h", "tiles.c", "tiles_attention.c")
"""What the library is compiled from, in the order in which `setup.py` marks it."""


class _Attention(ctypes.Structure):
    """The structure of this name in `tiles_attention.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "near", "far")),
        *((name, ctypes.c_void_p) for name in ("positions", "worth", "lengths", "out")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_long) for name in ("batch", "frames", "heads", "width", "distances", "centre")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they were not built, or the processor or the system is not for them."""
    if not getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return None
    paths = [Path(__file__).with_name(f"_tiles{suffix}") for suffix in EXTENSION_SUFFIXES]
    found = next(filter(Path.exists, paths), None)
    if found is None:
        return None
    try:
        loaded = ctypes.CDLL(str(found))
    except OSError:
        return None
    if not _is_of_these_sources(found, loaded):
        warnings.warn(
            f"{found.name} was compiled from other sources than those beside it, and is not used: int8 and int16"
            " weights are slower; compile it anew with pip install --no-deps --editable .",
            stacklevel=2,
        )
        return None
    pointer, whole, count = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
    loaded.aronnax_round.argtypes = [pointer, count, count, whole, whole, pointer, pointer]
    loaded.aronnax_round.restype = None
    loaded.aronnax_multiply.argtypes = [
        *(pointer, pointer, count, count, pointer, pointer, pointer, count),
        *(whole, whole, whole, pointer),
    ]
    loaded.aronnax_multiply.restype = None
    loaded.aronnax_attention_room.argtypes = [count, count]
    loaded.aronnax_attention_room.restype = count
    loaded.aronnax_attend.argtypes = [ctypes.POINTER(_Attention), whole, pointer]
    loaded.aronnax_attend.restype = None
    return loaded if loaded.aronnax_tiles_are_lent() else None


def _is_of_these_sources(path: Path, loaded: ctypes.CDLL) -> bool:
    """Whether the library carries the mark of the sources beside it, where there are any."""
    mark = getattr(loaded, "aronnax_tiles_mark", None)
    sources = [path.with_name(name) for name in SOURCES]
    if mark is None or not all(map(Path.exists, sources)):
        return mark is not None
    mark.restype = ctypes.c_uint32
    return bool(mark() == zlib.crc32(b"".join(map(Path.read_bytes, sources))))


def _needed() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise OptionError(
            "this model's weights were made for AMX, which cannot be had here: load the model anew with weights="
        )
    return found


def _floats(x: Tensor) -> Tensor:
    """As C reads it: float32 numbers one after another, on the CPU; OptionError if it is elsewhere."""
    if x.device.type != "cpu":
        raise OptionError(
            f"int8 and int16 weights run on the CPU only, but were given a tensor on {x.device}"
        )
    return x.detach().float().contiguous()


class Weight(NamedTuple):
    """tiles int8 [N / 16, K / 64, P, 16, 64] as `tiles.h` tells, and what a product of ones is worth [N]."""

    tiles: Tensor
    unit: Tensor

    @classmethod
    def of(cls, weight: Tensor, planes: int) -> Weight:
        """A weight [N, K] in whole numbers, with one scale for each output."""
        weight = weight.detach().double()
        outputs, inputs = weight.shape
        scale = weight.abs().amax(1).clamp(min=1e-30) / LARGEST[planes]
        whole = (weight / scale[:, None]).round().to(torch.int32)
        high = (whole + 128) >> 8
        parts = [whole] if planes == 1 else [high, whole - 256 * high]
        room = (0, -inputs % DEPTH, 0, -outputs % EDGE)
        stacked = torch.stack([F.pad(part.to(torch.int8), room) for part in parts])
        # Four inputs of an output lie side by side, then the next output's.
        split = stacked.unflatten(2, (-1, DEPTH // 4, 4)).unflatten(1, (-1, EDGE))
        tiles = split.permute(1, 3, 0, 4, 2, 5).contiguous().flatten(4)
        return cls(tiles, (scale * 256 ** (planes - 1) / LARGEST[planes]).float())


def rounded(rows: Tensor, planes: int) -> tuple[Tensor, Tensor]:
    """Floats [M, K] -> tiles int8 and the largest magnitude of each row [M, 1]."""
    rows = _floats(rows)
    count, inputs = rows.shape
    # The last rows of the last tiles are whatever was there: nobody reads what becomes of them.
    shape = -(-count // EDGE), -(-inputs // DEPTH), planes, EDGE, DEPTH
    tiles, peak = rows.new_empty(shape, dtype=torch.int8), rows.new_empty(count, 1)
    given = rows.data_ptr(), count, inputs, planes, torch.get_num_threads()
    _needed().aronnax_round(*given, tiles.data_ptr(), peak.data_ptr())
    return tiles, peak


def multiply(
    tiles: Tensor, peak: Tensor, weight: Weight, bias: Tensor | None, inputs: int, then: str
) -> Tensor:
    """What `rounded` gave times `weight` transposed, plus bias [N], then activated: floats [M, N]."""
    unit, bias = _floats(weight.unit), None if bias is None else _floats(bias)
    rows, outputs = len(peak), len(unit)
    out = peak.new_empty(rows, outputs)
    _needed().aronnax_multiply(
        *(tiles.data_ptr(), peak.data_ptr(), rows, inputs, weight.tiles.data_ptr(), unit.data_ptr()),
        *(None if bias is None else bias.data_ptr(), outputs),
        *(tiles.shape[2], THEN[then], torch.get_num_threads(), out.data_ptr()),
    )
    return out


class Positions(NamedTuple):
    """What the distances between two frames add to their score.

    near, far float [H, K]: what a query gets before it meets the keys, and before it meets the table.
    table: distances as outputs of a weight, those of each head after those of the one before, with `distances`
    (a multiple of 16) for each head; distance 0 is number `centre` of a head, and larger ones come before it.
    """

    near: Tensor
    far: Tensor
    table: Weight
    distances: int
    centre: int

    @staticmethod
    def packed(table: Tensor) -> tuple[Weight, int]:
        """A table [H, K, distances] of floats as a weight, and the distances of a head there."""
        padded = F.pad(table, (0, -table.shape[2] % EDGE))
        return Weight.of(padded.transpose(1, 2).flatten(0, 1), 2), padded.shape[2]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    heads: int,
    scale: float,
    positions: Positions | None = None,
) -> Tensor:
    """Attention of `heads` heads over whole rows: query, key, value [B, T, H K] and lengths [B] -> [B, T, H K].

    Scores are `scale` times the products of queries and keys, plus those of queries and positions, which are
    scaled before. Queries, keys, values, positions and what becomes of the scores are numbers of 16 bits. Frames
    from a row's length on are not looked at.
    """
    batch, frames, width = query.shape
    given = [_floats(part) for part in (query, key, value)]
    ends = lengths.to(torch.int64).clamp(max=frames)
    out = given[0].new_empty(batch, frames, width)
    request = _Attention(
        *(part.data_ptr() for part in given), lengths=ends.data_ptr(), out=out.data_ptr(), scale=scale
    )
    request.batch, request.frames, request.heads, request.width = batch, frames, heads, width // heads
    if positions is not None:
        near, far, worth = map(_floats, (positions.near, positions.far, positions.table.unit))
        request.near, request.far, request.worth = near.data_ptr(), far.data_ptr(), worth.data_ptr()
        request.positions = positions.table.tiles.data_ptr()
        request.distances, request.centre = positions.distances, positions.centre
    found, threads = _needed(), min(torch.get_num_threads(), batch * heads)
    room = out.new_empty(threads, found.aronnax_attention_room(frames, width // heads), dtype=torch.int8)
    found.aronnax_attend(ctypes.byref(request), threads, room.data_ptr())
    return out.to(query.dtype)
