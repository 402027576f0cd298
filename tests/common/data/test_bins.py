"""Buckets part the total duration evenly, and the commands print what a configuration takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aronnax.cli.bins import bins
from aronnax.cli.tokenizer import tokenizer
from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d, padding_share
from aronnax.collections.common.data.config import BatchingConfig
from aronnax.collections.common.data.limits import Seen, Waste, covered, edges_for_fixed_sizes, more_padding
from aronnax.collections.common.data.measuring import (
    measure,
    report_1d,
    simulate,
    token_count,
)
from aronnax.collections.common.data.sampling import Edges
from aronnax.collections.common.text import read_tokenizer
from aronnax.collections.common.text.prompts import second_generation, train_canary_tokenizer
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, ManifestError, OptionError
from tests.common.data.corpus import corpus

Write = Callable[..., Path]
NEMO = Path(__file__).parents[2] / "parity/fixtures/bins_2d.json"


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


@pytest.mark.parametrize("case", json.loads(NEMO.read_text()), ids=lambda case: case["kind"])
def test_two_dimensional_bins_are_nemos(case: dict[str, Any]) -> None:
    durations, tokens = corpus(case["seed"], case["count"], case["kind"])
    ours = estimate_bins_2d(
        durations, tokens, case["buckets"], case["sub_buckets"], max_duration=case["max_duration"]
    )
    assert [list(edge) for edge in ours.edges] == case["bins"]
    assert ours.max_tokens_per_second == pytest.approx(case["max_tps"], abs=1e-6)


def test_two_dimensional_bins_cover_all_but_outliers_and_hold_equal_shares() -> None:
    durations, tokens = corpus(1, 20_000, "plain")
    found = estimate_bins_2d(durations, tokens, 10, 2)
    assert found.edges == sorted(found.edges)
    assert len(found.edges) == 20
    rates = np.array(tokens) / np.array(durations)
    assert len(found.outliers) == pytest.approx(100, abs=10)
    assert rates[found.outliers].min() > rates[np.setdiff1d(np.arange(20_000), found.outliers)].mean() * 2
    ends = sorted({seconds for seconds, _ in found.edges})
    totals = [sum(d for d in durations if low < d <= high) for low, high in zip([0.0, *ends], ends)]
    np.testing.assert_allclose(totals, sum(durations) / 10, rtol=0.05)


def test_recordings_that_all_speak_equally_fast_have_no_outlier() -> None:
    found = estimate_bins_2d([1.0, 2.0, 3.0, 4.0], [2, 4, 6, 8], 2, 1)
    assert found.outliers == []
    with pytest.raises(ValueError, match="cannot fill 2 x 0 buckets"):
        estimate_bins_2d([1.0], [1], 2, 0)


def test_limits_of_fixed_sizes_leave_the_outliers_out_and_nothing_else() -> None:
    durations, tokens = corpus(4, 2000, "plain")
    found = estimate_bins_2d(durations, tokens, 5, 2)
    assert found.outliers
    seen = Seen([], durations, tokens, complete=True)
    options = {"two_dimensional": True, "sub_buckets": 2, "longest": None}
    parting = edges_for_fixed_sizes(BatchingConfig(buckets=5), seen, **options)  # type: ignore[arg-type]
    edges, rates = parting.edges, parting.rates
    assert len(edges) == parting.asked == 10
    assert len(rates) == len(edges)
    out = [index for index, inside in enumerate(covered(seen, edges, rates)) if not inside]
    assert out == sorted(found.outliers)


def test_equal_edges_become_one_bucket_and_are_counted() -> None:
    seen = Seen([], [1.0, 1.1, 2.0, 2.1] * 5, [3] * 20, complete=True)
    options = {"two_dimensional": True, "sub_buckets": 2, "longest": None}
    parting = edges_for_fixed_sizes(BatchingConfig(buckets=2), seen, **options)  # type: ignore[arg-type]
    assert [tokens for _, tokens in parting.edges] == [3, 3]
    assert (len(parting.rates), parting.asked) == (2, 4)
    given = BatchingConfig(
        bucket_duration_bins=((1.5, 3), (1.5, 3), (2.5, 3)),
        bucket_batch_sizes=(9, 9, 3),
        bucket_max_tokens_per_second=(3.0, 4.0, 2.0),
    )
    parting = edges_for_fixed_sizes(given, seen, **options)  # type: ignore[arg-type]
    assert (parting.edges, parting.rates, parting.asked) == ([(1.5, 3), (2.5, 3)], (4.0, 2.0), 3)


def test_what_lies_beyond_given_edges_is_a_bucket_too_and_is_counted() -> None:
    seen = Seen([], [0.5, 1.1, 2.86], [3, 3, 3], complete=True)
    options = {"two_dimensional": False, "sub_buckets": 2, "longest": None}
    for given, edges, asked in (
        ((1.0, 2.0), [1.0, 2.0, 2.86], 3),
        ((1.0, 1.0, 2.0), [1.0, 2.0, 2.86], 4),
        ((1.00001, 2.0, 5.0), [1.00001, 2.0, 5.0], 3),
    ):
        parting = edges_for_fixed_sizes(BatchingConfig(bucket_duration_bins=given), seen, **options)  # type: ignore[arg-type]
        assert (parting.edges, parting.asked) == (edges, asked)


def test_durations_equal_but_for_less_than_a_millisecond_end_one_bucket() -> None:
    report = report_1d([1.00010, 1.00015, 1.00020, 2.0] * 5, 4, 10.0)
    edges = yaml.safe_load(report)["batching"]["bucket_duration_bins"]
    assert edges == [1.0]
    assert "# 2 buckets came out of the 4 asked for" in report


def test_new_batches_that_pad_more_are_remarked_upon() -> None:
    before = Waste(0.192, 0.10, 9)
    assert more_padding(before, Waste(0.1921, 0.10, 7)) is None
    assert more_padding(before, before) is None
    said = more_padding(before, Waste(0.228, 0.30, 7))
    assert said is not None
    assert "pad more than the configuration's own (22.8% of seconds and 30.0% of tokens)" in said


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
    assert read_tokenizer(tmp_path / "tokenizer", "--tokenizer").vocabulary == (" ", "a", "b", "c")
    capsys.readouterr()
    options: dict[str, Any] = {"buckets": 3, "batch_duration": 5.0, "sub_buckets": 2, "two_dimensional": True}
    options["tokenizer"] = tmp_path / "tokenizer"
    bins([str(path)], plot=tmp_path / "waste.png", **options)
    printed = capsys.readouterr().out
    config = from_dict(BatchingConfig, yaml.safe_load(printed)["batching"])
    assert config.two_dimensional
    assert len(config.bucket_batch_sizes) == len(config.bucket_max_tokens_per_second) >= 4
    assert "padding with as many 1-D buckets" in printed
    assert (tmp_path / "waste.png").read_bytes()[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edges = Edges(config.bucket_duration_bins, config)
    assert all(edges.bucket((line["duration"], len(line["text"]))) < edges.count for line in lines)
    bins([str(path)], extra_tokens=7, **options)
    longer = from_dict(BatchingConfig, yaml.safe_load(capsys.readouterr().out)["batching"])
    assert max(edge[1] for edge in longer.bucket_duration_bins if isinstance(edge, tuple)) == 5 + 7


def test_two_dimensional_bins_count_the_prompt(write_corpus: Write, tmp_path: Path) -> None:
    texts = ["a b c ab abc"] * 20
    specials = second_generation(["en", "de"], frames=0, speakers=0, spare=0)
    made = train_canary_tokenizer({"en": texts, "de": texts}, 9, specials)
    for name, data in made.assets().items():
        target = tmp_path / "canary" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    path = write_corpus(6, source_lang="en", target_lang="de")
    plain = measure([str(path)], token_count(tmp_path / "canary", prompt=None), 10)[1]
    prompted = measure([str(path)], token_count(tmp_path / "canary", "canary2"), 10)[1]
    assert {more - less for more, less in zip(prompted, plain)} == {10}


def test_two_dimensional_bins_need_a_tokenizer(write_corpus: Write, tmp_path: Path) -> None:
    path = str(write_corpus(5))
    with pytest.raises(OptionError, match="name a --tokenizer folder"):
        bins([path], two_dimensional=True)
    accepted = (
        r"--tokenizer digits-canary: there is no tokenizer .*bundled model .*digits-canary\); give a folder"
    )
    with pytest.raises(ConfigError, match=accepted):
        bins([path], tokenizer=Path("digits-canary"))
    with pytest.raises(OptionError, match="belong to 2-D buckets"):
        bins([path], plot=tmp_path / "a.png")


def test_limits_that_leave_nothing_are_an_error(write_corpus: Write) -> None:
    with pytest.raises(ManifestError, match="none of 5 recordings lies within the limits"):
        bins([str(write_corpus(5))], min_duration=50.0)


def test_the_tokenizer_command_writes_a_folder_nemo_takes_too(
    write_corpus: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(10)
    tokenizer([path], tmp_path / "t", vocab_size=8, special=["<|en|>"])
    trained = read_tokenizer(tmp_path / "t", "--tokenizer")
    assert trained.vocabulary[:2] == ("<unk>", "<|en|>")
    assert (tmp_path / "t" / "vocab.txt").read_text().splitlines() == list(trained.vocabulary)
    assert "8 pieces from 10 texts" in capsys.readouterr().out


def test_texts_come_from_manifests_and_text_files(write_corpus: Write, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("xyz\n")
    path = write_corpus(5)
    path.write_text(path.read_text() + json.dumps({"audio_filepath": "z.wav"}) + "\n")
    tokenizer([path, tmp_path / "more.txt"], tmp_path / "t", vocab_size=9, type="characters")
    assert read_tokenizer(tmp_path / "t", "--tokenizer").vocabulary == (" ", "a", "b", "c", "x", "y", "z")
