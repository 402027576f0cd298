"""Which keys a query may see, and in which blocks of queries attention is computed.

`T` frames, `Q` queries of a block, `K` keys of a block. Long inputs are cut into blocks of queries so that
the scores that exist at one time stay bounded, whatever the length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from aronnax.core.errors import OptionError

MAX_SCORES = 2**25
"""Scores (rows x heads x queries x keys) that may exist at one time; 128 MiB in float32."""

CPU_QUERIES = 160
"""Queries of a block in inference on a CPU: scores stay in its cache, and fewer distances are multiplied."""

MASKED = -10000.0
"""What is added to the score of a key that may not be seen."""


@dataclass(frozen=True)
class Attention:
    """What every frame of an encoder may look at; a per-call choice that changes no module.

    kind: "full" (all frames inside the context) or "local" (a sliding window; needs `left` and `right`).
    left, right: frames of context to each side of a query; -1 is unlimited.
    style: "regular" (a window around each frame) or "chunked_limited" (chunks of right + 1 frames; a chunk
        sees itself and left // chunk chunks before it).
    global_tokens, global_tokens_spacing: with "local", this many frames, so far apart from the start, are
        seen by all frames and see all frames.
    """

    kind: Literal["full", "local"] = "full"
    left: int = -1
    right: int = -1
    style: Literal["regular", "chunked_limited"] = "regular"
    global_tokens: int = 0
    global_tokens_spacing: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("full", "local"):
            raise OptionError(f"attention kind must be 'full' or 'local', not {self.kind!r}")
        if self.style not in ("regular", "chunked_limited"):
            raise OptionError(f"attention style must be 'regular' or 'chunked_limited', not {self.style!r}")
        if self.left < -1 or self.right < -1:
            raise OptionError(f"attention context must be -1 or more, not ({self.left}, {self.right})")
        if self.kind == "local" and (min(self.left, self.right) < 0 or max(self.left, self.right) == 0):
            raise OptionError(
                f"local attention needs a limited context with frames in it, not ({self.left}, {self.right})"
            )
        if self.global_tokens and self.kind != "local":
            raise OptionError("global tokens belong to local attention: use Attention(kind='local', ...)")
        if self.global_tokens < 0 or self.global_tokens_spacing < 1:
            raise OptionError("global_tokens must be >= 0 and global_tokens_spacing >= 1")

    @property
    def chunk(self) -> int:
        """Frames of a chunk in the chunked style, else 1."""
        return self.right + 1 if self.style == "chunked_limited" and self.right >= 0 else 1

    def keys(self, start: int, stop: int, frames: int) -> tuple[int, int]:
        """The first and the last-plus-one key that any query of [start, stop) may see."""
        chunk = self.chunk
        first = 0
        if self.left >= 0:
            first = (start // chunk - self.left // chunk) * chunk if chunk > 1 else start - self.left
        last = frames
        if self.right >= 0:
            last = ((stop - 1) // chunk + 1) * chunk if chunk > 1 else stop + self.right
        return max(0, first), min(frames, last)


class Block(NamedTuple):
    """Queries [q0, q1) and the keys [k0, k1) they may see; `bias` [Q, K] hides the others, if any."""

    q0: int
    q1: int
    k0: int
    k1: int
    bias: Tensor | None


def plan_blocks(attention: Attention, rows: int, frames: int, device: torch.device) -> tuple[Block, ...]:
    """Cuts `frames` queries into blocks; `rows` is batch times heads. One block where that is as good."""
    most = CPU_QUERIES if device.type == "cpu" and not torch.is_grad_enabled() else frames
    step = _block_size(attention, rows, frames, most)
    biases: dict[tuple[int, ...], Tensor | None] = {}
    blocks = []
    for q0 in range(0, frames, step):
        q1 = min(frames, q0 + step)
        k0, k1 = attention.keys(q0, q1, frames)
        alike = (q1 - q0, k1 - k0, q0 - k0, q0 % attention.chunk)
        if alike not in biases:
            biases[alike] = _window_bias(attention, q0, q1, k0, k1, device)
        blocks.append(Block(q0, q1, k0, k1, biases[alike]))
    return tuple(blocks)


def _block_size(attention: Attention, rows: int, frames: int, most: int) -> int:
    """Queries of a block, no more than `most` unless a window bounds the keys as well."""
    limited = attention.left >= 0 and attention.right >= 0
    window = attention.left + attention.right + 1
    if limited and frames > 2 * window:
        step = max(128, window)
        seen = step + window
    else:
        step, seen = -(-frames // -(-frames // most)), frames
    if rows * step * seen > MAX_SCORES:
        step = max(16, MAX_SCORES // (rows * seen))
    chunk = attention.chunk
    return frames if step >= frames else max(1, step // chunk) * chunk


def _window_bias(
    attention: Attention, q0: int, q1: int, k0: int, k1: int, device: torch.device
) -> Tensor | None:
    queries = torch.arange(q0, q1, device=device)[:, None]
    keys = torch.arange(k0, k1, device=device)[None, :]
    hidden = torch.zeros(q1 - q0, k1 - k0, dtype=torch.bool, device=device)
    if attention.chunk > 1 or (attention.style == "chunked_limited" and attention.right == 0):
        behind = queries // attention.chunk - keys // attention.chunk
        hidden |= behind < 0
        if attention.left >= 0:
            hidden |= behind > attention.left // attention.chunk
    else:
        if attention.left >= 0:
            hidden |= keys < queries - attention.left
        if attention.right >= 0:
            hidden |= keys > queries + attention.right
    if attention.left < 0 and attention.right < 0:
        return None
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, MASKED)
