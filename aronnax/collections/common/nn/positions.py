"""Sinusoidal tables of relative positions, grown on demand.

Transformer-XL (Dai et al. 2019, arXiv 1901.02860), appendix B. `D` width, `P` number of distances.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

KEEP_REACH = 4096
"""Tables that reach further than this many frames are made for one call and not kept."""

_tables: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}
_lock = threading.Lock()


def relative_positions(
    left: int, right: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The rows [P, D] of the distances left, left - 1, ..., -right (query frame minus key frame).

    P = left + right + 1; a row holds sin at even and cos at odd places. Any reach works; short tables are
    shared by all callers and all threads.
    """
    reach = max(left, right)
    if reach > KEEP_REACH:
        return _sinusoids(left, right, width, device).to(dtype)
    key = (width, device, dtype)
    with _lock:
        table = _tables.get(key)
        if table is None or table.shape[0] < 2 * reach + 1:
            grown = min(KEEP_REACH, max(255, 2 ** (reach + 1).bit_length() - 1))
            # A table made inside inference mode could not be used by a later training step.
            with torch.inference_mode(False), torch.no_grad():
                table = _sinusoids(grown, grown, width, device).to(dtype)
            _tables[key] = table
    centre = table.shape[0] // 2
    return table[centre - left : centre + right + 1]


def _sinusoids(left: int, right: int, width: int, device: torch.device) -> Tensor:
    distances = torch.arange(left, -right - 1, -1, dtype=torch.float32, device=device)[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = distances * torch.exp(even * -(math.log(10000.0) / width))
    table = torch.empty(distances.shape[0], width, device=device)
    table[:, 0::2] = torch.sin(angles)
    table[:, 1::2] = torch.cos(angles)[:, : width // 2]
    return table
