"""Buckets part the total duration evenly, and the commands print what a configuration takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from aronnax.cli.bins import bins
from aronnax.cli.tokenizer import tokenizer
from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d, padding_share
from aronnax.collections.common.data.config import BatchingConfig
from aronnax.collections.common.data.measuring import read_tokenizer, simulate
from aronnax.core.config import from_dict
from aronnax.core.errors import ManifestError

Write = Callable[..., Path]


def test_every_bucket_holds_the_same_total_duration() -> None:
    durations = np.random.default_rng(0).lognormal(1.0, 0.6, 5000)
    edges = estimate_bins(list(durations), 10)
    assert edges[-1] == pytest.approx(durations.max())
    totals = [
        durations[(durations > low) & (durations <= high)].sum() for low, high in zip([0.0, *edges], edges)
    ]
    assert len(totals) == 10
    np.testing.assert_allclose(totals, durations.sum() / 10, rtol=0.05)


def test_durations_too_alike_give_fewer_buckets() -> None:
    assert estimate_bins([1.0] * 50, 10) == [1.0]
    with pytest.raises(ValueError, match="cannot fill"):
        estimate_bins([], 3)


def test_two_dimensional_bins_cover_everything_and_rise() -> None:
    generator = np.random.default_rng(1)
    durations = generator.uniform(1, 10, 2000)
    tokens = (durations * generator.uniform(1, 5, 2000)).astype(int) + 1
    pairs = estimate_bins_2d(list(durations), [int(t) for t in tokens], 5, 3)
    assert pairs == sorted(pairs)
    assert len(pairs) == 15
    for seconds, count in zip(durations, tokens):
        assert any(seconds <= edge and count <= most for edge, most in pairs)


def test_the_padding_share_counts_what_is_added() -> None:
    assert padding_share([1.0, 3.0, 2.0], [[0, 1], [2]]) == pytest.approx(2 / 8)


def test_simulated_batches_hold_everything_once_and_are_not_too_long() -> None:
    durations = list(np.random.default_rng(2).uniform(1, 9, 300))
    batches = simulate(durations, [3.0, 6.0], 30.0)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert max(max(durations[i] for i in batch) * len(batch) for batch in batches) <= 30.0


def test_the_command_prints_yaml_ready_to_paste(
    write_corpus: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(60)
    bins([str(path)], buckets=4, batch_duration=5.0)
    printed = capsys.readouterr().out
    assert "without buckets" in printed
    config = from_dict(BatchingConfig, yaml.safe_load(printed)["batching"])
    assert len(config.bucket_duration_bins) == 3


def test_the_command_prints_two_dimensional_bins(
    write_corpus: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(60)
    tokenizer([path], tmp_path / "tokenizer", vocab_size=9, type="characters")
    assert read_tokenizer(tmp_path / "tokenizer").vocabulary == (" ", "a", "b", "c")
    capsys.readouterr()
    bins([str(path)], buckets=3, batch_duration=5.0, tokenizer=tmp_path / "tokenizer", sub_buckets=2)
    config = from_dict(BatchingConfig, yaml.safe_load(capsys.readouterr().out)["batching"])
    assert config.two_dimensional
    assert len(config.bucket_batch_sizes) == len(config.bucket_duration_bins) >= 4


def test_limits_that_leave_nothing_are_an_error(write_corpus: Write) -> None:
    with pytest.raises(ManifestError, match="none of 5 recordings lies within the limits"):
        bins([str(write_corpus(5))], min_duration=50.0)


def test_the_tokenizer_command_writes_a_folder_nemo_takes_too(
    write_corpus: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(10)
    tokenizer([path], tmp_path / "t", vocab_size=8, special=["<|en|>"])
    trained = read_tokenizer(tmp_path / "t")
    assert trained.vocabulary[:2] == ("<unk>", "<|en|>")
    assert (tmp_path / "t" / "vocab.txt").read_text().splitlines() == list(trained.vocabulary)
    assert "8 pieces from 10 texts" in capsys.readouterr().out


def test_texts_come_from_manifests_and_text_files(write_corpus: Write, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("xyz\n")
    path = write_corpus(5)
    path.write_text(path.read_text() + json.dumps({"audio_filepath": "z.wav"}) + "\n")
    tokenizer([path, tmp_path / "more.txt"], tmp_path / "t", vocab_size=9, type="characters")
    assert read_tokenizer(tmp_path / "t").vocabulary == (" ", "a", "b", "c", "x", "y", "z")
