from __future__ import annotations

from typing import Any

import pytest

import aronnax
from aronnax.collections.asr.training import TrainConfig, train
from aronnax.core.config import from_dict


def run(config: dict[str, Any]) -> Any:
    return train(from_dict(TrainConfig, config), say=lambda line: None)


def test_a_run_leaves_a_loadable_model_and_scores_of_every_language_pair(canary_config, tmp_path) -> None:
    said: list[str] = []
    result = train(from_dict(TrainConfig, canary_config()), said.append)
    expected = {
        "val/loss",
        "val/wer",
        "val/wer_all",
        "val/wer/en",
        "val/wer/en-de",
        "val/bleu/en-de",
        "val/chrf",
    }
    assert expected <= set(result.after)
    assert result.after["val/loss"] < result.before["val/loss"]
    assert any(line.startswith("en-de WER ") and "BLEU" in line for line in said)
    model = aronnax.load(str(result.folder), device="cpu")
    assert model.model_type == "canary"
    assert model.languages == ("en", "de")
    header = next((tmp_path / "run" / "logs").glob("**/metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"train/encoder_padding", "train/decoder_padding", "train/tokens", "val/rtfx"} <= set(header)


def test_a_handful_of_utterances_is_learned_in_both_languages(canary_config) -> None:
    result = run(
        canary_config(
            steps=100,
            task={"mask_prompt": True},
            optim={"lr": 4e-3, "warmup_steps": 10},
        )
    )
    assert result.after["val/wer/en"] < 0.1
    assert result.after["val/wer/en-de"] < 0.1
    assert result.after["val/chrf/en-de"] > 90
