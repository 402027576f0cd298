from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

import aronnax
from aronnax.cli.main import main
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


def test_a_longer_run_on_the_same_folder_goes_on_as_if_it_had_never_stopped(canary_config, tmp_path) -> None:
    optim = {"schedule": "constant"}
    straight = run(canary_config(steps=7, output=str(tmp_path / "straight"), optim=optim))
    first = run(canary_config(steps=4, optim=optim))
    going_on = run(canary_config(steps=7, optim=optim))
    assert going_on.before == first.before
    exact = [name for name in straight.after if "rtfx" not in name]
    assert {n: going_on.after[n] for n in exact} == {n: straight.after[n] for n in exact}
    for name, tensor in straight.model.state_dict().items():
        assert (tensor == going_on.model.state_dict()[name]).all(), name


def test_an_encoder_starts_from_any_recogniser_and_is_frozen_on_request(canary_config, tmp_path) -> None:
    first = run(canary_config(steps=3))
    said: list[str] = []
    config = canary_config(
        steps=3,
        output=str(tmp_path / "second"),
        init_from={"encoder": str(first.folder)},
        task={"freeze": ["encoder"]},
    )
    second = train(from_dict(TrainConfig, config), said.append)
    assert any(line.startswith("encoder: ") and "taken from" in line for line in said)
    old, new = first.model.state_dict(), second.model.state_dict()
    for name in old:
        if name.startswith("encoder."):
            assert (old[name] == new[name]).all(), name
    name = "transf_decoder._decoder.layers.0.first_sub_layer.query_net.weight"
    assert not (old[name] == new[name]).all()
    assert "its encoder started from" in (second.folder / "README.md").read_text()


def test_the_noise_stage_trains_on_recordings_without_speech(
    canary_config, prompted_manifest, tmp_path
) -> None:
    quiet = {"source_lang": "en", "target_lang": "en", "text": ""}
    noise = prompted_manifest(quiet, quiet, name="noise", texts=("a",))
    lines = noise.read_text().splitlines()[2:]
    noise.write_text("\n".join(lines) + "\n")
    first = run(canary_config(steps=3))
    config = canary_config(
        steps=4,
        output=str(tmp_path / "noise"),
        init_from=str(first.folder),
        tokenizer={"kind": None},
        data={
            "non_speech": {"share": 0.3, "seconds": [0.5, 1.0]},
            "perturb": {"noise": "generated", "noise_probability": 0.5, "noise_snr_db": [0.0, 20.0]},
        },
    )
    config["model"] = {}
    config["data"]["validation"] = {"clean": config["data"]["train"], "noise": str(noise)}
    result = run(config)
    assert "val/noise/characters_per_minute" in result.after
    assert "val/noise/wer" not in result.after
    assert "val/clean/wer/en-de" in result.after


@pytest.mark.parametrize("kind", ["canary", "canary_aggregate"])
@pytest.mark.parametrize("form", ["canary", "canary2"])
def test_tokenizers_are_made_of_the_data_for_both_prompt_formats(canary_config, kind, form) -> None:
    config = canary_config(steps=3, tokenizer={"kind": kind, "vocab_size": 80 if kind == "canary" else 30})
    config["model"]["prompt_format"] = form
    model = run(config).model
    assert model.languages == ("en", "de")
    prompted = model.encode_prompt({"source_lang": "en", "target_lang": "de"}, "vau weh")
    assert prompted.answer[-1] == model.text.end_id
    assert model.text.decode(prompted.answer) == "vau weh"


def test_a_fabricated_batch_has_the_limits_asked_for_and_trains(canary_config) -> None:
    from aronnax.collections.asr.task import make_task
    from aronnax.collections.common.optim import OptimConfig

    task = make_task(run(canary_config(steps=3)).model, OptimConfig())
    batch = task.fabricate(3, 1.5, 17)
    assert batch.signal.shape == (3, 12000)
    assert batch.tokens.shape == (3, 17)
    assert batch.token_padding == batch.padding == 0.0
    task.losses(batch)["loss"].backward()
    assert all(p.grad is not None for p in task.model.transf_decoder.parameters() if p.requires_grad)


def test_evaluate_prints_a_row_for_each_pair_and_what_was_written_for_noise(
    canary_config, prompted_manifest, tmp_path, capsys
) -> None:
    folder = run(canary_config(steps=3)).folder
    quiet = {"source_lang": "en", "target_lang": "de", "text": "", "nonspeech": True}
    manifest = prompted_manifest(quiet, name="test")
    out = tmp_path / "scores"
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "evaluate",
                str(folder),
                str(manifest),
                "--normalizer",
                "basic",
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    table = [line.split() for line in said.splitlines() if line.startswith(("en ", "en-de "))]
    assert [(row[0], row[1], len(row)) for row in table] == [("en", "6", 4), ("en-de", "6", 6)]
    assert "without speech: " in said
    assert "characters a minute" in said
    assert "real-time factor" in said
    assert re.search(r"padding: \d+\.\d% of what was encoded", said)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["groups"]) == {"en", "en-de"}
    assert summary["groups"]["en-de"]["bleu"] is not None
    assert summary["non_speech"]["recordings"] == 1
    assert 0.0 < summary["encoder_padding"] < 1.0
    assert len((out / "utterances.jsonl").read_text().splitlines()) == 13


def test_evaluate_names_a_line_that_lacks_its_target_language(
    canary_config, prompted_manifest, capsys
) -> None:
    folder = run(canary_config(steps=3)).folder
    manifest = prompted_manifest({"source_lang": "en", "taskname": "ast", "text": "vau"}, name="test")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), str(manifest), "--device", "cpu"])
    assert stop.value.code == 2
    assert "line 13: the field target_lang is missing" in capsys.readouterr().err


def test_the_command_finds_the_type_of_a_checkpoint_that_is_fine_tuned(
    canary_config, tmp_path, capsys
) -> None:
    folder = run(canary_config(steps=3)).folder
    config = canary_config(
        steps=3, output=str(tmp_path / "tuned"), init_from=str(folder), tokenizer={"kind": None}
    )
    config["model"] = {}
    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path), "task.mask_prompt=true"])
    assert stop.value.code in (0, None)
    assert "en-de WER" in capsys.readouterr().out
    path.write_text(yaml.safe_dump({**config, "model": {"type": "canry"}, "init_from": None}))
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path)])
    assert stop.value.code == 2
    assert "model.type is 'canry'; did you mean canary?" in capsys.readouterr().err


def test_mixed_precision_averaging_and_accumulation_train_too(canary_config) -> None:
    config = canary_config(steps=3)
    config["trainer"] |= {"precision": "bf16-mixed", "ema": 0.9, "accumulate": 2}
    result = run(config)
    assert result.after["val/loss"] < result.before["val/loss"]
    loaded = aronnax.load(str(result.folder), device="cpu")
    for name, tensor in loaded.state_dict().items():
        assert (tensor == result.model.state_dict()[name]).all(), name
