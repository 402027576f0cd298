"""What the decoding engine asks of a model. `B` rows, `P` prompt tokens, `V` vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor


class Cache(Protocol):
    """What a model keeps of the tokens so far; `common/nn/cache.py` is one for attention.

    A row of the caller may become a group of `beam` rows. Host lists say what moves, so that nothing is copied that
    stays where it is.
    """

    def repeat(self, times: int) -> None:
        """Make every row a group of `times` equal rows."""
        ...

    def select(self, groups: Sequence[int]) -> None:
        """Keep these groups, in this order."""
        ...

    def reorder(self, rows: Sequence[int]) -> None:
        """Row rows[i] becomes row i, inside its group."""
        ...

    def snapshot(self) -> Any:
        """Where the rows stand, for `rollback`."""
        ...

    def rollback(self, mark: Any) -> None:
        """Go back to `mark`, exactly, if no rows were moved since."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)


class Decoder(Protocol[CacheT]):
    """A language model bound to whatever it is conditioned on (encoder states, nothing)."""

    def prefill(self, tokens: Tensor, lengths: Tensor, *, capacity: int) -> tuple[Tensor, CacheT]:
        """Scores [B, V] after the last token of each prompt, [B, P] padded on the right to `lengths` [B].

        The cache has room for `capacity` tokens a row. Scores are logits or log-probabilities.
        """
        ...

    def step(self, tokens: Tensor, cache: CacheT) -> Tensor:
        """Scores [B, V] after one more token [B] of each row in use; the cache moves on in place."""
        ...

    def release(self, cache: CacheT) -> None:
        """The cache is not needed any more: its buffers may serve another call."""
        ...


@runtime_checkable
class QuickDecoder(Decoder[CacheT], Protocol[CacheT]):
    """A decoder that may know the best token before it knows all scores."""

    def best(self, tokens: Tensor, cache: CacheT) -> Tensor:
        """The best tokens [B] of the scores that `step` would give; the cache moves on as there."""
        ...


class Guard(Protocol):
    """Looks at a row's answer after each token and may end it."""

    def __call__(self, row: int, tokens: Sequence[int]) -> int | None:
        """How many tokens to keep, ending the answer there; or None to go on."""
        ...
