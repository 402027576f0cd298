"""Several processes draw from the same bucket at every step, and reading ahead changes nothing but the waiting."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse.cut import Cut

from aronnax.collections.asr.batch import SpeechBatch, speech_data
from aronnax.collections.common.data import DataConfig, SpeechDataModule, made_cut
from aronnax.collections.common.data.config import BatchingConfig
from aronnax.collections.common.data.filters import note_number
from aronnax.collections.common.data.mixing import Endless, tempered
from aronnax.collections.common.data.sampling import BucketSampler, Edges
from aronnax.collections.common.text import CharacterTokenizer
from aronnax.core.config import from_dict

RATE = 1000
RANKS, STEPS = 4, 1000
BINS = ((0.03, 4), (0.03, 8), (0.06, 8), (0.06, 16), (0.1, 12), (0.1, 30))
SIZES = (6, 4, 3, 3, 2, 1)
BATCHING = BatchingConfig(bucket_duration_bins=BINS, bucket_batch_sizes=SIZES, buffer_size=300)
EDGES = Edges(BINS, BATCHING)


def tone(samples: int) -> np.ndarray:
    return np.ones(samples, dtype=np.float32)


def cut(index: int) -> Cut:
    generator = np.random.default_rng(index)
    samples = int(generator.integers(10, 101))
    tokens = int(generator.integers(1, 2 + min(29, samples // 3)))
    return note_number(made_cut(partial(tone, samples), samples, RATE, "a" * tokens, str(index)), tokens)


class Numbers:
    """Cuts without end."""

    def __iter__(self) -> Iterator[Cut]:
        return map(cut, count())


def bucket_of(cuts: list[Cut]) -> int:
    """The one bucket that all cuts of a batch belong to."""
    (bucket,) = {EDGES.bucket(EDGES.length(one)) for one in cuts}
    return bucket


def test_four_ranks_draw_from_one_bucket_at_every_step_and_share_nothing() -> None:
    streams = [
        BucketSampler(Numbers(), BINS, BATCHING, shuffle=True, seed=3, world_size=RANKS, rank=rank)
        for rank in range(RANKS)
    ]
    seen: set[str] = set()
    drawn: Counter[int] = Counter()
    try:
        for step in zip(*(islice(stream, STEPS) for stream in streams)):
            (bucket,) = {bucket_of(list(batch)) for batch in step}
            assert [len(batch) for batch in step] == [SIZES[bucket]] * RANKS
            names = [one.id for batch in step for one in batch]
            assert not seen.intersection(names)
            seen.update(names)
            drawn[bucket] += 1
    finally:
        for stream in streams:
            stream.close()
    assert sum(drawn.values()) == STEPS
    assert set(drawn) == set(range(len(BINS)))


def test_a_pass_ends_for_all_ranks_at_the_same_step_with_everything_seen() -> None:
    everything = [cut(index) for index in range(500)]
    config = BatchingConfig(bucket_duration_bins=BINS, bucket_batch_sizes=SIZES, buffer_size=60)
    streams = [
        [list(batch) for batch in BucketSampler(
            everything, BINS, config, shuffle=True, seed=0, world_size=RANKS, rank=rank
        )]
        for rank in range(RANKS)
    ]  # fmt: skip
    assert len({len(stream) for stream in streams}) == 1
    names = [one.id for batch in chain(*streams) for one in batch]
    assert {name.split("_dup")[0] for name in names} == {str(index) for index in range(500)}
    assert len(names) - 500 < RANKS
    for batch in chain(*streams):
        longest = (max(one.duration for one in batch), max(EDGES.length(one)[1] for one in batch))
        assert len(batch) <= EDGES.capacity(longest)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"batch_duration": 1.0}, [10, 10, 5]),
        ({"batch_duration": 1.0, "batch_tokens": 40}, [10, 4, 2]),
        ({"batch_tokens": 40, "batch_size": 6}, [6, 4, 2]),
    ],
)
def test_two_dimensional_buckets_may_be_sized_by_seconds_and_tokens(
    limits: dict[str, Any], expected: list[int]
) -> None:
    bins = ((0.1, 4), (0.1, 10), (0.2, 20))
    config = BatchingConfig(bucket_duration_bins=bins, **limits)
    edges = Edges(bins, config)
    assert [edges.capacity(edge) for edge in bins] == expected
    assert [edges.bucket(length) for length in ((0.1, 4), (0.05, 5), (0.05, 11), (0.3, 1))] == [0, 1, 2, 3]


def test_recordings_with_far_too_many_tokens_a_second_are_left_out_and_counted() -> None:
    cuts = [
        made_cut(partial(tone, 50), 50, RATE, "a" * length, f"{length} {k}")
        for length in (2, 9)
        for k in "xy"
    ]
    batching = {
        "bucket_duration_bins": [[0.06, 4], [0.1, 30]],
        "bucket_batch_sizes": [2, 2],
        "bucket_max_tokens_per_second": [100.0, 1000.0],
    }
    config = from_dict(
        DataConfig,
        {"sample_rate": RATE, "num_workers": 0, "batching": batching, "filters": {"min_duration": None}},
        "data",
    )
    data = speech_data(config, CharacterTokenizer("a"), train=cuts)
    assert sorted(name for batch in data.train_dataloader() for name in batch.ids) == ["2 x", "2 y"]
    assert data.dropped.reasons["with far more tokens a second than others of its length"].count == 2


class Slow:
    """Cuts that take 2 ms each to be described."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[Cut]:
        for index in range(self.number):
            time.sleep(0.002)
            yield cut(index)


def sampler(concurrent: bool, number: int = 400, buffer: int = 300) -> BucketSampler:
    config = BatchingConfig(
        bucket_duration_bins=BINS, bucket_batch_sizes=SIZES, buffer_size=buffer, concurrent=concurrent
    )
    return BucketSampler(Slow(number), BINS, config, shuffle=True, seed=0, world_size=1, rank=0)


def test_the_first_batch_comes_sooner_when_a_thread_fills_the_buckets() -> None:
    waited = {}
    for concurrent in (False, True):
        batches = sampler(concurrent)
        began = time.perf_counter()
        next(iter(batches))
        waited[concurrent] = time.perf_counter() - began
        batches.close()
    assert waited[True] < 0.3 * waited[False]


def test_filling_in_a_thread_gives_the_same_recordings_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    whole = [Counter(one.id for batch in sampler(way, 200) for one in batch) for way in (False, True)]
    assert whole[0] == whole[1] == Counter(str(index) for index in range(200))
    interrupted = sampler(True)
    next(iter(interrupted))
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"read-ahead"}
    interrupted.close()
    forgotten = sampler(True)
    next(iter(forgotten))
    del forgotten
    assert set(threading.enumerate()) <= before


def test_an_error_while_reading_ahead_is_raised_where_batches_are_used() -> None:
    def failing() -> Iterator[Cut]:
        yield cut(0)
        raise OSError("the disk is gone")

    config = BatchingConfig(bucket_duration_bins=BINS, bucket_batch_sizes=SIZES, concurrent=True)
    batches = BucketSampler(failing(), BINS, config, shuffle=True, seed=0, world_size=1, rank=0)
    with pytest.raises(OSError, match="the disk is gone"):
        list(batches)


def test_shares_of_endless_streams_are_kept_within_one_percent_at_every_temperature() -> None:
    assert tempered([197, 2159], 1.0) == pytest.approx([0.0836, 0.9164], abs=5e-5)
    assert tempered([197, 2159], 0.0) == [0.5, 0.5]
    small = [tempered([197, 2159], t / 10)[0] for t in range(11)]
    assert small == sorted(small, reverse=True)
    streams: list[Any] = [["small"] * 3, ["large"] * 7]
    for temperature in (1.0, 0.5, 0.0):
        shares = tempered([197, 2159], temperature)
        drawn = Counter(islice(Endless(streams, shares, "seed"), 50_000))  # type: ignore[arg-type]
        assert drawn["small"] / 50_000 == pytest.approx(shares[0], abs=0.01)


def data_module(rank: int, monkeypatch: pytest.MonkeyPatch | None = None) -> SpeechDataModule[SpeechBatch]:
    config = from_dict(
        DataConfig,
        {
            "sample_rate": RATE,
            "num_workers": 0,
            "filters": {"min_duration": None},
            "batching": {
                "bucket_duration_bins": [list(edge) for edge in BINS],
                "bucket_batch_sizes": list(SIZES),
                "buffer_size": 300,
            },
        },
        "data",
    )
    if monkeypatch is not None:
        monkeypatch.setattr(SpeechDataModule, "_ranks", lambda self: (rank, RANKS))
    return speech_data(config, CharacterTokenizer("a"), train=Numbers())


@pytest.mark.parametrize("rank", range(RANKS))
def test_every_rank_goes_on_at_its_very_next_batch(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [batch.ids for batch in islice(data_module(rank, monkeypatch).train_dataloader(), 40)]
    interrupted = data_module(rank, monkeypatch)
    assert [batch.ids for batch in islice(interrupted.train_dataloader(), 25)] == whole[:25]
    state = interrupted.state_dict()
    interrupted.train_dataloader().close()
    resumed = data_module(rank, monkeypatch)
    resumed.load_state_dict(state)
    assert [batch.ids for batch in islice(resumed.train_dataloader(), 15)] == whole[25:]
    resumed.train_dataloader().close()


def _process(rank: int, folder: str) -> None:
    """One of four processes: a thousand steps, telling the others of each; then a resumed run's next steps."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    data = data_module(rank)
    whole = list(islice(data.train_dataloader(), STEPS + 20))
    data.train_dataloader().close()
    mine = torch.tensor(
        [EDGES.bucket((b.signal.shape[1] / RATE, int(b.token_lengths.max()))) for b in whole[:STEPS]]
    )
    buckets = [torch.zeros_like(mine) for _ in range(RANKS)]
    torch.distributed.all_gather(buckets, mine)
    assert all(other.equal(mine) for other in buckets)
    names: list[list[str] | None] = [None] * RANKS
    torch.distributed.all_gather_object(names, [name for batch in whole[:STEPS] for name in batch.ids])
    together = [name for part in names for name in part or ()]
    assert len(set(together)) == len(together)
    again = data_module(rank)
    again.load_state_dict({"epoch": 0, "position": STEPS, "world_size": RANKS})
    after = [batch.ids for batch in islice(again.train_dataloader(), 20)]
    assert after == [batch.ids for batch in whole[STEPS:]]
    again.train_dataloader().close()
    Path(folder, f"{rank}.done").write_text(str(len(together)))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_four_processes_agree_for_a_thousand_steps_and_resume_exactly(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=RANKS)
    assert len(list(tmp_path.glob("*.done"))) == RANKS
