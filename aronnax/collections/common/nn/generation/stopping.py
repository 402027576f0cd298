"""When an answer ends, and how its place is given to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from aronnax.collections.common.nn.generation.options import GenerationOptions
from aronnax.collections.common.nn.generation.protocols import Guard


@dataclass(frozen=True)
class Stopping:
    """The end token, sequences that stop, and guards."""

    eos: int
    pad: int | None
    stop: tuple[tuple[int, ...], ...]
    guards: tuple[Guard, ...]

    @property
    def watches(self) -> bool:
        """Whether anything but the end token ends an answer."""
        return bool(self.stop or self.guards)

    def stops(self, row: int, tokens: Sequence[int]) -> int | None:
        """How many tokens to keep if the answer ends here, else None."""
        for sequence in self.stop:
            if tuple(tokens[-len(sequence) :]) == sequence:
                return len(tokens) - len(sequence)
        for guard in self.guards:
            keep = guard(row, tokens)
            if keep is not None:
                return min(keep, len(tokens))
        return None


def rooms(lengths: Tensor, limits: Tensor, options: GenerationOptions) -> list[int]:
    """Most new tokens of each row, by the lengths [B] of prompts and the most of both together, limits [B]."""
    most = options.max_new_tokens
    room = [max(0, limit - length) for limit, length in zip(limits.tolist(), lengths.tolist())]
    return room if most is None else [min(space, most) for space in room]


def pack(places: Sequence[bool]) -> list[int]:
    """Which places to keep where `places` says so, moving as few as possible: holes are filled from the end."""
    kept = [place for place, wanted in enumerate(places) if wanted]
    movers = [place for place in kept if place >= len(kept)]
    return [place if places[place] else movers.pop() for place in range(len(kept))]
