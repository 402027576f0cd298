"""Where a stream of BESTOW stands, as plain tensors that can be saved.

Shapes: S samples, T frames, U positions of the language model, D its width, L layers of the reader, H heads, K width
of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aronnax.collections.speechlm.bestow.reader import Reader
from aronnax.core.errors import AudioError, CheckpointError

if TYPE_CHECKING:
    from aronnax.collections.speechlm.bestow.model import BESTOW


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands: all that is needed to go on with it elsewhere."""

    samples: Tensor
    """[S] those that will be encoded again, and those not heard yet."""
    speech: Tensor
    """[T, D] the frames of the live speech that will stay as they are."""
    embeddings: Tensor
    """[U, D] what the language model was given so far."""
    keys: Tensor
    """[L, U, H, K] what the reader keeps of these positions."""
    values: Tensor
    """[L, U, H, K]."""
    received: int = 0
    """Samples pushed so far."""
    blocks: int = 0
    """Blocks read so far."""
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    heard: tuple[float, ...] = ()
    """Seconds of speech heard when each token was written."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, ready for `safetensors.torch.save_file`."""
        named = {name: getattr(self, name).contiguous() for name in _TENSORS}
        numbers = {"log_probs": self.log_probs, "heard": self.heard}
        named |= {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        named["tokens"] = torch.tensor(self.tokens, dtype=torch.int64)
        named["counts"] = torch.tensor([self.received, self.blocks])
        return named

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> StreamState:
        """The state that `tensors` described; CheckpointError names what is missing."""
        for name in (*_TENSORS, "counts", "tokens", "log_probs", "heard"):
            if name not in tensors:
                raise CheckpointError(f"the saved state of the stream lacks {name!r}")
        received, blocks = tensors["counts"].tolist()
        return cls(
            **{name: tensors[name] for name in _TENSORS},
            received=received,
            blocks=blocks,
            tokens=tuple(tensors["tokens"].tolist()),
            log_probs=tuple(tensors["log_probs"].tolist()),
            heard=tuple(tensors["heard"].tolist()),
        )


_TENSORS = ("samples", "speech", "embeddings", "keys", "values")


def fresh(model: BESTOW) -> StreamState:
    """A stream that has heard nothing."""
    assert isinstance(model.reader, Reader)
    width = model.llm.width
    like = torch.zeros(0, device=model.device, dtype=next(model.reader.parameters()).dtype)
    layers, heads, head_width = model.reader.kept_shape
    kept = like.new_zeros(layers, 0, heads, head_width)
    return StreamState(torch.zeros(0), like.new_zeros(0, width), like.new_zeros(0, width), kept, kept)


def checked(state: StreamState, model: BESTOW) -> StreamState:
    """A state that fits the model, on its device."""
    expected = fresh(model)
    for name in ("speech", "embeddings", "keys", "values"):
        mine, theirs = getattr(expected, name), getattr(state, name)
        fits = theirs.ndim == mine.ndim and theirs.shape[-1] == mine.shape[-1]
        if not fits or (name in ("keys", "values") and len(theirs) != len(mine)):
            raise CheckpointError(
                f"the saved state of the stream does not fit the model: {name} has shape {tuple(theirs.shape)}"
            )
    moved = {name: getattr(state, name).to(expected.speech) for name in _TENSORS if name != "samples"}
    return replace(state, samples=state.samples.cpu(), **moved)


def samples_from(samples: Any, received: int, rate: int) -> Tensor:
    """Pushed samples as a float32 tensor [S] on the CPU, or an AudioError that says what is wrong with them."""
    given = samples if isinstance(samples, Tensor) else torch.from_numpy(np.ascontiguousarray(samples))
    new = given.detach().cpu()
    if new.ndim != 1:
        raise AudioError(
            f"a stream takes samples [S] of one channel, not an array of shape {tuple(new.shape)}"
        )
    if not new.is_floating_point():
        raise AudioError(f"a stream takes floats in [-1, 1], not {new.dtype}; divide integers by their range")
    new = new.float().clone()
    if not bool(new.isfinite().all()):
        place = received + int(torch.nonzero(~new.isfinite())[0])
        raise AudioError(f"sample {place} of the stream (at {place / rate:.3f} s) is NaN or infinite")
    return new
