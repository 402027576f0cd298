"""Several kinds of batches in one training, each step of one kind."""

from __future__ import annotations

from typing import Any

import pytest

from aronnax.collections.common.data.config import BatchingConfig, DataConfig, FilterConfig, StreamConfig
from aronnax.collections.common.data.mixing import RoundRobin
from aronnax.core.errors import ManifestError


class Pass(list):
    """The batches of one pass; remembers that it was closed."""

    def __init__(self, batches: Any, closed: list[str]) -> None:
        super().__init__(batches)
        self.closed = closed

    def close(self) -> None:
        self.closed.append(str(self[0]) if self else "empty")


def rounds(seed: str, closed: list[str] | None = None) -> RoundRobin:
    closed = [] if closed is None else closed
    streams = {
        "audio": lambda number: Pass([f"audio {number} {n}" for n in range(7)], closed),
        "text": lambda number: Pass([f"text {number} {n}" for n in range(3)], closed),
    }
    return RoundRobin(streams, [0.85, 0.15], seed)


def drawn(sampler: RoundRobin, count: int) -> list[str]:
    return [str(batch) for batch, _ in zip(sampler, range(count))]


def test_shares_are_kept_within_a_hundredth_over_twenty_thousand_steps() -> None:
    steps = drawn(rounds("a"), 20_000)
    assert sum(step.startswith("audio") for step in steps) / 20_000 == pytest.approx(0.85, abs=0.01)


def test_the_order_follows_from_the_seed() -> None:
    assert drawn(rounds("a"), 200) == drawn(rounds("a"), 200) != drawn(rounds("b"), 200)


def test_a_stream_that_ends_is_opened_for_its_next_pass() -> None:
    steps = [step for step in drawn(rounds("a"), 200) if step.startswith("text")]
    assert steps[:7] == [f"text {n // 3} {n % 3}" for n in range(7)]


def test_every_pass_is_closed() -> None:
    closed: list[str] = []
    sampler = rounds("a", closed)
    drawn(sampler, 20)
    sampler.close()
    assert {name.split()[0] for name in closed} == {"audio", "text"}


def test_a_stream_without_anything_is_named() -> None:
    sampler = RoundRobin({"text": lambda number: Pass([], [])}, [1.0], "a")
    with pytest.raises(ManifestError, match=r"data\.streams\.text holds nothing"):
        drawn(sampler, 1)


def test_a_stream_has_the_filters_and_batching_of_the_data_unless_it_says_otherwise() -> None:
    own = BatchingConfig(batch_size=3)
    config = DataConfig(
        streams={
            "long": StreamConfig("a.jsonl", weight=2.0, batching=own),
            "short": StreamConfig("b.jsonl", weight=1.0, filters=FilterConfig(max_duration=1.0)),
        },
        filters=FilterConfig(max_duration=9.0),
    )
    long, short = config.training.values()
    assert (long.batching, long.filters.max_duration, long.weight) == (own, 9.0, 2.0)
    assert (short.batching, short.filters.max_duration) == (config.batching, 1.0)
    assert [item.path for item in config.inputs] == ["a.jsonl", "b.jsonl"]
    assert [item.path for item in DataConfig(train="c.jsonl").inputs] == ["c.jsonl"]
