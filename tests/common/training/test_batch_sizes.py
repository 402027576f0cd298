"""The search for batch sizes, against memory models that are known."""

from __future__ import annotations

import math

import pytest
import torch

from aronnax.collections.common.training.batch_sizes import (
    Bucket,
    DoesNotFit,
    Found,
    find_batch_sizes,
    in_order,
    largest_batch,
    parse_memory,
    show_memory,
)
from aronnax.collections.common.training.steps import is_out_of_memory, survives
from aronnax.core.errors import OptionError

SECONDS = [1.5 + 1.3 * step for step in range(30)]
BUCKETS = [Bucket(t, u) for t in SECONDS for u in (int(8 * t), int(12 * t))]


class Known:
    """mem = a + b*B*T + c*B*U, in bytes, within a budget."""

    def __init__(self, a: float, b: float, c: float, budget: float) -> None:
        self.a, self.b, self.c, self.budget = a, b, c, budget
        self.trials: list[tuple[Bucket, int]] = []

    def takes(self, bucket: Bucket, size: int) -> float:
        return self.a + size * (self.b * bucket.seconds + self.c * bucket.tokens)

    def fits(self, bucket: Bucket, size: int) -> bool:
        self.trials.append((bucket, size))
        return self.takes(bucket, size) <= self.budget

    def share(self, bucket: Bucket, size: int) -> float:
        return self.takes(bucket, size) / self.budget

    def needs(self, bucket: Bucket) -> str:
        return f"it takes {show_memory(self.takes(bucket, 1))}"


@pytest.mark.parametrize("budget", [8e9, 16e9, 80e9, 320e9])
def test_every_answer_fits_and_five_percent_more_does_not(budget: float) -> None:
    oracle = Known(2e9, 6e7, 1.5e6, budget)
    found = list(find_batch_sizes(BUCKETS, oracle))
    assert len(found) == 60
    for one in found:
        assert oracle.takes(one.bucket, one.size) <= budget
        assert oracle.takes(one.bucket, math.ceil(one.size / 0.95)) > budget


@pytest.mark.parametrize("budget", [8e9, 16e9, 80e9, 320e9])
def test_no_bucket_takes_fifteen_trials(budget: float) -> None:
    oracle = Known(2e9, 6e7, 1.5e6, budget)
    found = list(find_batch_sizes(BUCKETS, oracle))
    assert max(one.trials for one in found) < 15
    assert len(oracle.trials) == sum(one.trials for one in found)


def test_sizes_never_grow_with_seconds_or_tokens() -> None:
    sizes = {one.bucket: one.size for one in find_batch_sizes(BUCKETS, Known(2e9, 6e7, 1.5e6, 40e9))}
    for bucket, size in sizes.items():
        assert all(size <= other for smaller, other in sizes.items() if bucket.covers(smaller))


def test_buckets_are_walked_from_the_largest_down() -> None:
    walked = [one.bucket for one in find_batch_sizes(BUCKETS, Known(0, 1e6, 0, 1e9))]
    assert walked == sorted(BUCKETS, reverse=True)


@pytest.mark.parametrize("start", [1, 7, 25, 32, 500])
@pytest.mark.parametrize("limit", [1, 2, 3, 19, 32, 33, 100, 4095])
def test_any_start_leads_to_the_same_bounds(start: int, limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    size = largest_batch(fits, start)
    assert size <= limit < math.ceil(size / 0.95)
    assert len(tried) == len(set(tried)), "no size is tried twice"


def test_sizes_above_the_most_are_never_tried() -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return True

    assert largest_batch(fits, most=100) == 100
    assert max(tried) == 100


def test_a_bucket_that_cannot_fit_is_named_with_what_to_do() -> None:
    buckets = [Bucket(10.0, 100), Bucket(40.0, 480)]
    with pytest.raises(DoesNotFit, match="bucket of 40 s, 480 tokens") as caught:
        list(find_batch_sizes(buckets, Known(0, 1e8, 0, 2e9)))
    assert "max_duration" in str(caught.value)
    assert "--memory" in str(caught.value)


def test_what_was_found_before_an_interruption_is_kept() -> None:
    # The second bucket is walked later, and made impossible by its tokens.
    walk = find_batch_sizes([Bucket(9.0, 10), Bucket(8.0, 1000)], Known(0, 1e6, 1e7, 1e9))
    assert next(walk).bucket == Bucket(9.0, 10)
    with pytest.raises(DoesNotFit, match="8 s, 1000 tokens"):
        next(walk)


class RunsOut(Known):
    """Really raises what PyTorch raises, and needs to be cleared after it."""

    cleared = 0
    dirty = False

    def fits(self, bucket: Bucket, size: int) -> bool:
        def attempt() -> None:
            assert not self.dirty, "an error left memory behind"
            if self.takes(bucket, size) > self.budget:
                self.dirty = True
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def clear() -> None:
            self.dirty = False
            self.cleared += 1

        return survives(attempt, clear)


def test_running_out_of_memory_is_survived() -> None:
    oracle = RunsOut(2e9, 6e7, 1.5e6, 16e9)
    found = list(find_batch_sizes(BUCKETS, oracle))
    plain = list(find_batch_sizes(BUCKETS, Known(2e9, 6e7, 1.5e6, 16e9)))
    assert found == plain
    assert oracle.cleared > 60


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_only_memory_errors_count_as_out_of_memory(error: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_other_errors_of_a_step_are_not_swallowed() -> None:
    def broken() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        survives(broken, lambda: None)


def test_a_wavering_oracle_cannot_make_larger_buckets_larger() -> None:
    found = [Found(Bucket(10.0, 50), 30, 5), Found(Bucket(5.0, 20), 28, 5), Found(Bucket(4.0, 60), 40, 5)]
    assert [(one.bucket.seconds, one.size) for one in in_order(found)] == [(4.0, 40), (5.0, 28), (10.0, 28)]


@pytest.mark.parametrize(
    ("text", "expected"), [("16GB", 2**34), ("900 mb", 900 * 2**20), ("1e", None), ("0", None)]
)
def test_memory_is_read_as_people_write_it(text: str, expected: int | None) -> None:
    if expected is not None:
        assert parse_memory(text) == expected
        return
    with pytest.raises(OptionError, match="16GB"):
        parse_memory(text)
