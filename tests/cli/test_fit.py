"""`aronnax bins --fit`: from a training YAML to a data section that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("lightning")

from aronnax.cli.fit import FitOptions, fit_batch_sizes
from aronnax.cli.main import main
from aronnax.core.errors import AronnaxError

RATE = 8000
SMALL = {
    "preprocessor": {"sample_rate": RATE, "n_mels": 16, "n_fft": 256},
    "encoder": {
        "n_layers": 1,
        "d_model": 16,
        "n_heads": 2,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 8,
    },
}
CANARY = {
    "type": "canary",
    "decoder": {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "n_heads": 2, "max_sequence_length": 64},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A training YAML with a manifest of 40 recordings of 0.3 to 3 s."""
    draws = np.random.default_rng(0)
    lines = []
    for index in range(40):
        seconds = round(float(draws.uniform(0.3, 3.0)), 2)
        soundfile.write(tmp_path / f"{index}.wav", 0.1 * draws.standard_normal(int(seconds * RATE)), RATE)
        text = "ab cd"[: 1 + int(5 * draws.random())].strip() * (1 + int(seconds))
        lines.append(
            {
                "audio_filepath": f"{index}.wav",
                "duration": seconds,
                "text": text,
                "source_lang": "en",
                "target_lang": "en",
            }
        )
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping: dict[str, Any] = {
        "output": str(tmp_path / "run"),
        "model": {"type": "ctc", **SMALL},
        "tokenizer": {"kind": "characters"},
        "data": {
            "train": str(tmp_path / "train.jsonl"),
            "batching": {"batch_size": 4, "buckets": 3},
            "num_workers": 0,
        },
        "optim": {"warmup_steps": 1, "schedule": "constant"},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "loggers": [], "log_every": 1},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def fitted(path: Path) -> dict[str, Any]:
    batching: dict[str, Any] = yaml.safe_load(path.read_text())["data"]["batching"]
    return batching


def test_the_section_written_trains(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "data.yaml", tmp_path / "waste.png"
    main_ok("bins", "--fit", str(config), "--memory", "24MB", "--out", str(out), "--plot", str(plot))
    said = capsys.readouterr().out
    batching = fitted(out)
    sizes = batching["bucket_batch_sizes"]
    assert len(sizes) == len(batching["bucket_duration_bins"]) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] >= 1
    assert "measured:" in said
    assert "padding before" in said
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "run").exists(), "finding sizes leaves nothing where the training will write"
    main_ok("train", str(config), str(out))
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_two_dimensional_buckets_for_an_encoder_decoder(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.yaml"
    changed = yaml.safe_load(config.read_text())
    changed["model"] = {**SMALL, **CANARY}
    changed["tokenizer"] = {"kind": "canary", "vocab_size": 40}
    config.write_text(yaml.safe_dump(changed))
    fit_batch_sizes(config, [], FitOptions(memory="32MB", two_dimensional=True, out=out))
    batching = fitted(out)
    assert all(len(edge) == 2 for edge in batching["bucket_duration_bins"])
    assert len(batching["bucket_max_tokens_per_second"]) == len(batching["bucket_duration_bins"])
    assert len(batching["bucket_batch_sizes"]) == len(batching["bucket_duration_bins"])


def test_sizes_are_found_for_one_stream_at_a_time(config: Path, tmp_path: Path) -> None:
    mapping = yaml.safe_load(config.read_text())
    train = mapping["data"].pop("train")
    mapping["data"]["streams"] = {
        "long": {"train": train, "filters": {"min_duration": 1.5}},
        "short": {"train": train, "filters": {"max_duration": 1.5}},
    }
    config.write_text(yaml.safe_dump(mapping))
    with pytest.raises(AronnaxError, match=r"--stream : name the one of data\.streams .* \(long, short\)"):
        fit_batch_sizes(config, [], FitOptions(memory="24MB"))
    out = tmp_path / "data.yaml"
    fit_batch_sizes(config, [], FitOptions(memory="24MB", out=out, stream="short"))
    streams = yaml.safe_load(out.read_text())["data"]["streams"]
    assert streams["long"]["batching"] is None
    assert max(streams["short"]["batching"]["bucket_duration_bins"]) <= 1.5
    assert len(streams["short"]["batching"]["bucket_batch_sizes"]) > 0
    main_ok("train", str(config), str(out))


def test_a_budget_that_is_too_small_names_the_bucket(config: Path) -> None:
    with pytest.raises(AronnaxError, match=r"the bucket of .* tokens cannot be trained on.*--memory"):
        fit_batch_sizes(config, [], FitOptions(memory="200KB"))


def test_ctrl_c_keeps_what_was_found_and_what_is_odd_is_said(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aronnax.collections.common.data import limits
    from aronnax.collections.common.training import batch_sizes

    whole = batch_sizes.find_batch_sizes

    def interrupted(*arguments: Any, **options: Any) -> Any:
        yield next(whole(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_sizes, "find_batch_sizes", interrupted)
    shares = iter((0.192, 0.228))
    monkeypatch.setattr(limits, "waste", lambda seen, batching: limits.Waste(next(shares), 0.1, 9))
    out = tmp_path / "data.yaml"
    edges = "data.batching.bucket_duration_bins=[1.0,1.0,2.0,2.0]"
    fit_batch_sizes(config, [edges], FitOptions(memory="24MB", out=out))
    said = capsys.readouterr().out
    assert "interrupted: 2 buckets" in said
    assert "3 buckets came out of the 5 asked for" in said
    assert "pad more than the configuration's own (22.8% of seconds)" in said
    assert len(set(fitted(out)["bucket_batch_sizes"])) == 1


def main_ok(*arguments: str) -> None:
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
