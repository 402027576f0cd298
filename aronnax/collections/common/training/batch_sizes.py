"""The batch-size finder: for every bucket the largest batch whose full training step fits into memory.

The search knows nothing of memory. It asks an oracle, which is a GPU that runs real steps (`steps.OnCUDA`), a memory
model measured on a CPU (`memory_model.MeasuredModel`), or a formula in a test. Source: OOMptimizer, in "Training and
Inference Efficiency of Encoder-Decoder Speech Models", arXiv:2503.05931.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aronnax.core.errors import AronnaxError, OptionError

START = 32
"""The first batch that is tried."""
TOLERANCE = 0.05
"""The answer is less than this share below a batch that does not fit."""
MOST = 4096
"""Larger batches are not looked for."""

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class DoesNotFit(AronnaxError):
    """Not even one recording of a bucket fits into memory; the message says which and what to do."""


@dataclass(frozen=True, order=True)
class Bucket:
    """The longest recording of a bucket, in seconds and in tokens."""

    seconds: float
    tokens: int

    def covers(self, other: Bucket) -> bool:
        """Whether no recording of the other bucket is longer in either."""
        return self.seconds >= other.seconds and self.tokens >= other.tokens

    def __str__(self) -> str:
        return f"{self.seconds:g} s, {self.tokens} tokens"


@dataclass(frozen=True)
class Found:
    """The largest batch of a bucket and what it took to find it."""

    bucket: Bucket
    size: int
    trials: int
    share: float | None = None
    """Of the memory budget, where the oracle knows it."""


class Oracle(Protocol):
    """Knows whether a batch of a bucket's longest recordings can be trained on."""

    def fits(self, bucket: Bucket, size: int) -> bool:
        """Whether a full step of so many recordings stays within the budget."""

    def share(self, bucket: Bucket, size: int) -> float | None:
        """The share of the budget such a step takes, or None where that is not known."""

    def needs(self, bucket: Bucket) -> str:
        """What a step of one recording takes and what there is, as part of a sentence."""


def largest_batch(
    fits: Callable[[int], bool], start: int = START, tolerance: float = TOLERANCE, most: int = MOST
) -> int:
    """The largest batch size that fits, to within `tolerance`; 0 where not even 1 does.

    Doubles from `start` until a size does not fit, or halves until one does, and bisects what is between. Sizes
    above `most` are not tried.

    >>> largest_batch(lambda size: size <= 100)
    100
    >>> largest_batch(lambda size: False)
    0
    """
    size = max(1, min(start, most))
    good, bad = 0, most + 1
    while size:
        if fits(size):
            good = size
            if bad <= most or size == most:
                break
            size = min(2 * size, most)
        else:
            bad = size
            if good:
                break
            size //= 2
    while good and bad - good > 1 and (bad - good) / bad > tolerance:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def find_batch_sizes(
    buckets: Sequence[Bucket], oracle: Oracle, *, tolerance: float = TOLERANCE, most: int = MOST
) -> Iterator[Found]:
    """Each bucket's largest batch as soon as it is found, from the largest bucket down.

    The search of a bucket starts at the largest size found for a bucket that covers it, so that sizes never grow
    with seconds or tokens.

    Raises:
        DoesNotFit: one recording of a bucket is already too much.
    """
    done: list[Found] = []
    for bucket in sorted(buckets, reverse=True):
        covering = [found.size for found in done if found.bucket.covers(bucket)]
        start = max(covering, default=done[-1].size if done else START)
        tried: set[int] = set()

        def fits(size: int, bucket: Bucket = bucket, tried: set[int] = tried) -> bool:
            tried.add(size)
            return oracle.fits(bucket, size)

        size = largest_batch(fits, start, tolerance, most)
        if size == 0:
            raise DoesNotFit(impossible(bucket, oracle.needs(bucket)))
        found = Found(bucket, size, len(tried), oracle.share(bucket, size))
        done.append(found)
        yield found


def in_order(found: Sequence[Found]) -> list[Found]:
    """Smallest bucket first, and no size above that of a bucket it covers, should the oracle have wavered."""
    return [
        Found(
            one.bucket,
            min(other.size for other in found if one.bucket.covers(other.bucket)),
            one.trials,
            one.share,
        )
        for one in sorted(found, key=lambda one: one.bucket)
    ]


def impossible(bucket: Bucket, needs: str) -> str:
    """The sentence for a bucket of which nothing fits."""
    return (
        f"the bucket of {bucket} cannot be trained on: {needs}. Leave out longer recordings "
        f"(data.filters.max_duration below {bucket.seconds:g}), give more --memory, or make a step smaller: "
        "model.encoder.activation_checkpointing=true, trainer.precision=bf16-mixed, a smaller model"
    )


def parse_memory(text: str) -> int:
    """Bytes of `16GB`, `500 MB`, `1.5g`; units are powers of 1024.

    Raises:
        OptionError: it is something else.

    >>> parse_memory("1.5GB") == 3 * 2**29
    True
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)i?b?\s*", text.lower())
    if match is None or float(match[1]) == 0:
        raise OptionError(f"--memory {text!r} is no amount of memory; write 16GB or 900MB")
    return int(float(match[1]) * 1024 ** _UNITS[match[2]])


def show_memory(count: float) -> str:
    """Bytes as a user reads them.

    >>> show_memory(3 * 2**29)
    '1.50 GB'
    """
    return f"{count / 2**30:.2f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
