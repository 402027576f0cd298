"""Batches: complete, alike in length, divided between ranks, and reproducible from any point."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse.cut import Cut

from aronnax.collections.asr.batch import MakeSpeechBatch, SpeechBatch, speech_data
from aronnax.collections.common.data import DataConfig, SpeechDataModule, made_cut
from aronnax.collections.common.data.filters import cut_text
from aronnax.collections.common.text import CharacterTokenizer
from aronnax.core.config import from_dict
from aronnax.core.errors import AudioError, ConfigError, ManifestError

Write = Callable[..., Path]
TOKENIZER = CharacterTokenizer([" ", "a", "b", "c"])
RATE = 1000


def config(**options: Any) -> DataConfig:
    options = {"sample_rate": 8000, "num_workers": 0, **options}
    small = {"buckets": 3, "batch_size": 4, "buffer_size": 500, "bins_estimate": 500}
    options["batching"] = {**small, **options.get("batching", {})}
    return from_dict(DataConfig, options, where="data")


def tone(samples: int) -> np.ndarray:
    return np.ones(samples, dtype=np.float32)


def silent_cuts(durations: list[float], text: str = "ab") -> list[Cut]:
    return [
        made_cut(partial(tone, round(d * RATE)), round(d * RATE), RATE, text, f"cut{index}")
        for index, d in enumerate(durations)
    ]


def made_data(durations: list[float], text: str = "ab", **options: Any) -> SpeechDataModule[SpeechBatch]:
    options = {"sample_rate": RATE, **options}
    return speech_data(config(**options), TOKENIZER, train=silent_cuts(durations, text))


def log_normal(count: int, seed: int = 0) -> list[float]:
    generator = np.random.default_rng(seed)
    return [round(float(d), 3) for d in np.clip(generator.lognormal(0.0, 0.6, count), 0.2, 5.0)]


def ids(data: SpeechDataModule[SpeechBatch], count: int | None = None) -> list[list[str]]:
    return [batch.ids for batch in islice(data.train_dataloader(), count)]


def test_a_pass_holds_every_recording_once_padded_and_tokenised(write_corpus: Write) -> None:
    path = write_corpus(23)
    batches = list(speech_data(config(train=str(path)), TOKENIZER).train_dataloader())
    names = [name for batch in batches for name in batch.ids]
    assert len(set(names)) == len(names) == 23
    for batch in batches:
        assert batch.signal.shape == (len(batch), int(batch.signal_lengths.max()))
        for row, length in enumerate(batch.signal_lengths.tolist()):
            assert batch.signal[row, length:].abs().sum() == 0
            kept = batch.tokens[row, : batch.token_lengths[row]].tolist()
            assert TOKENIZER.decode(kept) == batch.texts[row]


def test_recordings_are_resampled_to_the_models_rate(write_corpus: Write) -> None:
    path = write_corpus(4)
    seconds = sum(json.loads(line)["duration"] for line in path.read_text().splitlines())
    batches = speech_data(config(train=str(path), sample_rate=16000), TOKENIZER).train_dataloader()
    assert sum(int(batch.signal_lengths.sum()) for batch in batches) == pytest.approx(16000 * seconds, abs=8)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("used", [1, 8, 13])
def test_training_goes_on_at_the_very_next_batch(write_corpus: Write, workers: int, used: int) -> None:
    path = write_corpus(30)
    options = config(train=str(path), num_workers=workers, perturb={"speed_probability": 0.5})
    whole = speech_data(options, TOKENIZER)
    passes = [[b.signal for b in whole.train_dataloader()] for _ in range(2)]
    flat = [signal for one in passes for signal in one]
    interrupted = speech_data(options, TOKENIZER)
    loader = interrupted.train_dataloader()
    seen = list(islice(loader, min(used, len(passes[0]))))
    seen += list(islice(loader, used - len(seen)))
    state = json.loads(json.dumps(interrupted.state_dict()))
    interrupted.train_dataloader().close()
    resumed = speech_data(options, TOKENIZER)
    resumed.load_state_dict(state)
    after = next(iter(resumed.train_dataloader()))
    assert after.signal.equal(flat[used])
    resumed.train_dataloader().close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_weighted_nested_mix_goes_on_at_the_very_next_batch(write_corpus: Write, workers: int) -> None:
    first, second, third = (str(write_corpus(count, str(count), seed=count)) for count in (5, 9, 14))
    group = {
        "type": "group",
        "weight": 1,
        "inputs": [{"path": second, "weight": 5}, {"path": third, "weight": 1}],
    }
    options = config(
        train=[{"path": first, "weight": 3}, group],
        temperature=0.5,
        num_workers=workers,
        perturb={"speed_probability": 0.5},
    )
    whole = speech_data(options, TOKENIZER)
    unbroken = [batch.signal for batch in islice(whole.train_dataloader(), 25)]
    whole.train_dataloader().close()
    interrupted = speech_data(options, TOKENIZER)
    seen = [batch.signal for batch in islice(interrupted.train_dataloader(), 17)]
    state = json.loads(json.dumps(interrupted.state_dict()))
    interrupted.train_dataloader().close()
    resumed = speech_data(options, TOKENIZER)
    resumed.load_state_dict(state)
    seen += [batch.signal for batch in islice(resumed.train_dataloader(), 8)]
    resumed.train_dataloader().close()
    assert all(one.equal(other) for one, other in zip(seen, unbroken, strict=True))


def test_batches_read_ahead_do_not_count_as_used(write_corpus: Write) -> None:
    data = speech_data(config(train=str(write_corpus(30)), num_workers=2), TOKENIZER)
    loader = data.train_dataloader()
    loader.external = True
    fetched = list(islice(loader, 3))
    loader.use()
    assert data.state_dict()["position"] == 1
    again = list(islice(loader, 3))
    assert [batch.ids for batch in again[:2]] == [batch.ids for batch in fetched[1:]]
    loader.close()


def test_a_pass_cut_short_goes_on_in_the_next_iteration() -> None:
    durations = log_normal(40)
    whole = ids(made_data(durations))
    data = made_data(durations)
    assert ids(data, 3) + ids(data) == whole


def test_passes_differ_and_seeds_differ_but_runs_repeat() -> None:
    durations = log_normal(40)
    data = made_data(durations)
    first, second = ids(data), ids(data)
    assert first != second
    assert ids(made_data(durations)) == first
    assert ids(made_data(durations, seed=1)) != first


@pytest.mark.parametrize("buffer", [20, 10_000])
def test_reading_ahead_in_a_thread_does_not_change_the_batches(buffer: int) -> None:
    durations = log_normal(200)
    runs = [ids(made_data(durations, batching={"concurrent": True, "buffer_size": buffer})) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert sorted(name for batch in runs[0] for name in batch) == sorted(f"cut{n}" for n in range(200))


def test_a_small_beginning_does_not_make_small_batches() -> None:
    durations = log_normal(400)
    data = made_data(durations, batching={"batch_size": 10, "buffer_size": 100, "buckets": 5})
    sizes = [len(batch) for batch in ids(data)]
    assert set(sizes[:20]) == {10}
    assert sum(sizes) == 400


def test_two_ranks_share_every_pass_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = log_normal(120)
    seen, lengths = [], []
    for rank in range(2):
        monkeypatch.setattr(SpeechDataModule, "_ranks", lambda self, rank=rank: (rank, 2))
        batches = list(made_data(durations).train_dataloader())
        seen.append([name for batch in batches for name in batch.ids])
        lengths.append([int(batch.signal_lengths.max()) for batch in batches])
    assert not set(seen[0]) & set(seen[1])
    assert sorted(seen[0] + seen[1]) == sorted(f"cut{n}" for n in range(120))
    assert len(lengths[0]) == len(lengths[1])
    alone = made_data(durations, batching={"buckets": 1})
    assert np.mean(np.abs(np.subtract(*lengths))) < np.std(
        [len(b.signal[0]) for b in alone.train_dataloader()]
    )


def test_another_number_of_ranks_goes_on_about_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_data(log_normal(120))
    data.load_state_dict({"epoch": 0, "position": 5, "world_size": 4})
    assert data.train_dataloader().state_dict()["position"] == 20


def test_a_batch_holds_no_more_than_its_duration_with_padding_counted() -> None:
    data = made_data(log_normal(300), batching={"batch_size": None, "batch_duration": 12.0, "buckets": 8})
    for batch in data.train_dataloader():
        longest = int(batch.signal_lengths.max()) / RATE
        spread = longest - int(batch.signal_lengths.min()) / RATE
        assert longest * len(batch) <= 12.0 + len(batch) * spread + 1e-6


def test_quadratic_correction_puts_fewer_long_recordings_into_a_batch() -> None:
    durations = [1.0] * 120 + [4.0] * 40
    sizes: dict[float | None, dict[float, int]] = {}
    for quadratic in (None, 4.0):
        batching = {
            "batch_size": None,
            "batch_duration": 24.0,
            "quadratic_duration": quadratic,
            "bucket_duration_bins": [2.0],
        }
        batches = list(made_data(durations, batching=batching).train_dataloader())
        sizes[quadratic] = {int(b.signal_lengths.max()) / RATE: len(b) for b in reversed(batches)}
    assert sizes[None] == {1.0: 24, 4.0: 6}
    # 1 s counts 1 + 1/4, 4 s counts 4 + 16/4.
    assert sizes[4.0] == {1.0: 19, 4.0: 3}


def test_fixed_sizes_are_kept_and_longer_recordings_left_out() -> None:
    batching = {"batch_size": None, "bucket_duration_bins": [1.0, 2.0], "bucket_batch_sizes": [6, 2]}
    data = made_data([0.5] * 12 + [1.5] * 4 + [3.0], batching=batching)
    sizes = sorted((int(b.signal_lengths.max()), len(b)) for b in data.train_dataloader())
    assert sizes == [(500, 6), (500, 6), (1500, 2), (1500, 2)]
    assert data.dropped.reasons["longer than the last bucket (2 s)"].count == 1


def test_two_dimensional_buckets_go_by_seconds_and_tokens() -> None:
    batching = {
        "batch_size": None,
        "bucket_duration_bins": [[1.0, 2], [1.0, 6], [2.0, 6]],
        "bucket_batch_sizes": [4, 2, 3],
    }
    cuts = [
        made_cut(partial(tone, round(d * RATE)), round(d * RATE), RATE, text, f"{d} {text} {k}")
        for d, text, count in [(0.8, "ab", 8), (0.8, "abcab", 4), (1.8, "a", 3), (0.8, "abcabcabc", 1)]
        for k in range(count)
    ]
    data = speech_data(config(sample_rate=RATE, batching=batching), TOKENIZER, train=cuts)
    shapes = sorted((len(b), int(b.token_lengths.max()), b.signal.shape[1]) for b in data.train_dataloader())
    assert shapes == [(2, 5, 800), (2, 5, 800), (3, 1, 1800), (4, 2, 800), (4, 2, 800)]
    assert data.dropped.count == 1


def test_buckets_save_padding() -> None:
    durations = log_normal(600)
    share = {}
    for buckets in (1, 20):
        data = made_data(durations, batching={"batch_size": None, "batch_duration": 20.0, "buckets": buckets})
        list(data.train_dataloader())
        share[buckets] = data.stats.padding
    assert share[1] > 0.3
    assert share[20] < 0.1


def test_what_is_left_out_is_reported_with_its_reason() -> None:
    filters = {"max_duration": 2.0, "max_characters_per_second": 10.0, "max_tokens_per_second": 4.0}
    cuts = [*silent_cuts([1.0, 3.0, 0.05, 0.15]), *silent_cuts([0.45, 1.5], "ab")]
    cuts = [cut.with_id(f"c{n}") for n, cut in enumerate(cuts)]
    data = speech_data(config(sample_rate=RATE, filters=filters), TOKENIZER, train=cuts)
    list(data.train_dataloader())
    reasons = {name: reason.count for name, reason in data.dropped.reasons.items()}
    assert reasons == {
        "longer than 2 s": 1,
        "shorter than 0.1 s": 1,
        "with more than 10 characters a second": 1,
        "with more than 4 tokens a second": 1,
    }
    assert "2 of 6 recordings are used" in str(data.dropped)
    assert "1 longer than 2 s, such as c1 (3.00 s)" in str(data.dropped)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_recordings_are_left_out_of_their_batch(
    write_corpus: Write, caplog: Any, workers: int
) -> None:
    path = write_corpus(12, sampling_rate=8000)
    (path.parent / "3.wav").write_bytes(b"junk")
    (path.parent / "4.wav").unlink()
    data = speech_data(config(train=str(path), num_workers=workers), TOKENIZER)
    assert sum(len(batch) for batch in data.train_dataloader()) == 10
    assert data.stats.recordings_skipped == data.dropped.count == 2
    assert data.dropped.kept == 10
    for name in ("3.wav", "4.wav"):
        assert f"{path.parent / name} is skipped" in caplog.text


def broken(samples: int) -> np.ndarray:
    return np.full(samples, np.nan, dtype=np.float32)


def test_a_batch_with_nothing_readable_is_passed_over() -> None:
    bad = [made_cut(partial(broken, 500), 500, RATE, "a", f"bad{n}") for n in range(8)]
    options = config(sample_rate=RATE, batching={"bucket_duration_bins": [0.7]})
    data = speech_data(options, TOKENIZER, train=[*bad, *silent_cuts([1.0] * 8)])
    assert sum(len(batch) for batch in data.train_dataloader()) == 8
    assert data.dropped.count == 8


def test_a_rank_with_nothing_readable_repeats_its_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpeechDataModule, "_ranks", lambda self: (0, 2))
    good = silent_cuts([1.0] * 8)
    bad = [made_cut(partial(broken, 1000), 1000, RATE, "a", f"bad{n}") for n in range(8)]
    options = config(sample_rate=RATE, shuffle=False, batching={"buckets": 1})
    batches = list(speech_data(options, TOKENIZER, train=[*good, *bad]).train_dataloader())
    assert len(batches) == 2
    assert batches[0].ids == batches[1].ids


def test_data_that_cannot_be_read_at_all_is_an_error() -> None:
    bad = [made_cut(partial(broken, 500), 500, RATE, "a", f"bad{n}") for n in range(60)]
    data = speech_data(config(sample_rate=RATE), TOKENIZER, train=bad)
    with pytest.raises(
        AudioError, match="nothing could be read in 10 batches one after the other; the first was"
    ):
        list(data.train_dataloader())


def test_data_that_is_all_filtered_out_is_an_error() -> None:
    with pytest.raises(
        ManifestError, match=r"nothing to train on: 0 of 3 recordings are used .*\n  3 longer"
    ):
        ids(made_data([2.0, 2.0, 2.0], filters={"max_duration": 1.0}))


def test_no_training_input_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.train is empty"):
        ids(speech_data(config(), TOKENIZER))


def test_validation_is_complete_in_order_and_the_same_each_time(write_corpus: Write) -> None:
    path = write_corpus(21)
    options = config(train=str(path), validation={"dev": str(path)}, validation_batch_size=5)
    data = speech_data(options, TOKENIZER)
    (loader,) = data.val_dataloader()
    first = [batch.ids for batch in loader]
    assert [name for batch in first for name in batch] == [f"manifest-{n}" for n in range(1, 22)]
    assert [batch.ids for batch in loader] == first
    assert data.validation_names == ("dev",)


def test_validation_on_two_ranks_is_complete(write_corpus: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(validation=str(write_corpus(21)), validation_batch_size=5)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(SpeechDataModule, "_ranks", lambda self, rank=rank: (rank, 2))
        (loader,) = speech_data(options, TOKENIZER).val_dataloader()
        seen.append([name for batch in loader for name in batch.ids])
    # 21 = 2 x 10 + 1: Lhotse gives the rank without a last recording a marked copy, so that none waits for ever.
    names = [name for name in seen[0] + seen[1] if not name.endswith("_dup0")]
    assert sorted(names) == sorted(f"manifest-{n}" for n in range(1, 22))
    assert len(seen[0]) == len(seen[1]) == 11


class Growing:
    """Cuts made on the fly, others for each pass."""

    def __init__(self) -> None:
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Cut]:
        for index in range(6):
            samples = 100 * (index + 1 + self.epoch)
            yield made_cut(partial(tone, samples), samples, RATE, "ab", f"{self.epoch}-{index}")


@pytest.mark.parametrize("workers", [0, 1])
def test_cuts_may_be_made_on_the_fly(workers: int) -> None:
    data = SpeechDataModule(
        config(sample_rate=RATE, num_workers=workers), MakeSpeechBatch(TOKENIZER), train=Growing()
    )
    loader = data.train_dataloader()
    for epoch in range(2):
        batches = list(loader)
        assert sorted(n for b in batches for n in b.ids) == [f"{epoch}-{n}" for n in range(6)]
        lengths = sorted(n for b in batches for n in b.signal_lengths.tolist())
        assert lengths == [100 * (n + 1 + epoch) for n in range(6)]


def test_speed_perturbation_changes_lengths_but_not_texts(write_corpus: Write) -> None:
    path = write_corpus(10)
    plain = {c.id: c.duration for c in speech_data(config(train=str(path)), TOKENIZER).cuts()}
    perturb = {"speed_probability": 1.0, "speed_factors": [2.0]}
    data = speech_data(config(train=str(path), perturb=perturb), TOKENIZER)
    for cut in data.cuts():
        assert cut.duration == pytest.approx(plain[cut.id] / 2, abs=1e-3)
        assert cut_text(cut)
    assert sum(len(batch) for batch in data.train_dataloader()) == 10


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_the_loader_does_not_grow(write_corpus: Write) -> None:
    path = write_corpus(200, sampling_rate=8000)
    data = speech_data(config(train={"path": str(path), "weight": 1.0}), TOKENIZER)
    loader = data.train_dataloader()
    list(islice(loader, 200))
    gc.collect()
    before = resident()
    list(map(len, islice(loader, 600)))
    gc.collect()
    assert resident() - before < 8 * 2**20
    loader.close()
