from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import aronnax
from aronnax.collections.asr.training import TrainConfig, load_config, train
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.trainer import build_trainer
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError


@pytest.fixture
def config_of(tiny_section, tone_manifest, tmp_path):
    """kind, changes of sections -> the mapping of a short run on the tones."""
    manifest = tone_manifest()

    def make(kind: str = "ctc", steps: int = 4, **sections: Any) -> dict[str, Any]:
        config: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "model": tiny_section(kind),
            "tokenizer": {"kind": "characters"},
            "data": {
                "train": str(manifest),
                "validation": str(manifest),
                "batching": {"batch_size": 4, "buckets": 1},
                "num_workers": 0,
            },
            "optim": {"lr": 3e-3, "warmup_steps": 2},
            "trainer": {
                "max_steps": steps,
                "val_every": 100,
                "checkpoint_every": 2,
                "accelerator": "cpu",
                "loggers": ["csv"],
                "log_every": 1,
            },
        }
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(config.get(name), dict)
            config[name] = {**config[name], **section} if both else section
        return config

    return make


def run(config: dict[str, Any]) -> Any:
    return train(from_dict(TrainConfig, config), say=lambda line: None)


def test_a_run_leaves_a_loadable_model_its_scores_and_its_configuration(config_of, tmp_path) -> None:
    said: list[str] = []
    result = train(from_dict(TrainConfig, config_of("hybrid")), said.append)
    output = tmp_path / "run"
    scores = json.loads((output / "scores.json").read_text())
    assert set(scores) == {"before", "after"}
    assert {"val/wer", "val/tdt_wer", "val/ctc_wer", "val/tdt_loss", "val/ctc_loss"} <= set(scores["after"])
    assert scores["after"]["val/loss"] < scores["before"]["val/loss"]
    assert scores["after"] == result.after
    assert (output / "last.ckpt").is_file()
    assert not list(output.glob("*.part"))
    model = aronnax.load(str(output / "model"), device="cpu")
    assert model.heads == ("tdt", "ctc")
    assert model.tokenizer.vocabulary == tuple(" abcd")
    assert "val/tdt_wer" in (output / "model" / "README.md").read_text()
    assert any(line.startswith("before:") for line in said)
    assert from_dict(TrainConfig, yaml.safe_load((output / "train.yaml").read_text())).trainer.max_steps == 4
    header = next((output / "logs").glob("**/metrics.csv")).read_text().splitlines()[0]
    assert {"train/loss", "train/tdt_loss", "train/ctc_loss", "train/data_wait", "train/padding"} <= set(
        header.split(",")
    )


def test_an_output_that_is_a_file_is_refused(config_of, tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"output .*taken is a file; name a folder"):
        run(config_of("ctc", output=str(tmp_path / "taken")))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such an accelerator here")
def test_an_accelerator_that_is_not_there_is_a_sentence(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"trainer \(accelerator mps, devices 1, strategy auto\): "):
        build_trainer(TrainerConfig(accelerator="mps", devices=1, loggers=()), tmp_path, {})


def test_a_longer_run_on_the_same_folder_goes_on_as_if_it_had_never_stopped(config_of, tmp_path) -> None:
    optim = {"schedule": "constant"}
    straight = run(config_of("transducer", steps=7, output=str(tmp_path / "straight"), optim=optim))
    first = run(config_of("transducer", steps=3, optim=optim))
    going_on = run(config_of("transducer", steps=7, optim=optim))
    assert going_on.before == first.before
    assert going_on.after == straight.after
    for name, tensor in straight.model.state_dict().items():
        assert (tensor == going_on.model.state_dict()[name]).all(), name


def test_fine_tuning_extends_the_tokenizer_and_keeps_the_rest(config_of, tmp_path) -> None:
    first = run(config_of("hybrid"))
    tuned = run(
        config_of(
            output=str(tmp_path / "tuned"),
            init_from=str(first.folder),
            model={},
            tokenizer={"kind": None, "add": ["e"]},
            task={"freeze": ["encoder"]},
        )
        | {"model": {"spec_augment": {"time_masks": 1}}}
    )
    assert tuned.model.tokenizer.vocabulary == (*" abcd", "e")
    assert tuned.model.config.spec_augment.time_masks == 1
    old, new = first.model.state_dict(), tuned.model.state_dict()
    for name in old:
        if name.startswith("encoder."):
            assert (old[name] == new[name]).all(), f"{name} is frozen and changed"
    assert not (
        old["ctc_decoder.decoder_layers.0.weight"] == new["ctc_decoder.decoder_layers.0.weight"][:6]
    ).all()


def test_frozen_batch_norm_keeps_its_statistics(config_of, tmp_path) -> None:
    first = run(config_of())
    name = "encoder.layers.0.conv.batch_norm.running_mean"
    tuned = run(
        config_of(
            output=str(tmp_path / "tuned"),
            init_from=str(first.folder),
            task={"freeze": ["encoder"]},
            tokenizer={"kind": None},
        )
        | {"model": {}}
    )
    assert (first.model.state_dict()[name] == tuned.model.state_dict()[name]).all()


def test_a_first_step_beyond_the_training_is_refused(config_of) -> None:
    with pytest.raises(ConfigError, match="lies beyond the 4 steps"):
        run(config_of(optim={"first_steps": {"encoder": 4}}))


def test_a_logger_that_is_not_installed_is_named(config_of, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = config_of()
    config["trainer"]["loggers"] = ["wandb"]
    with pytest.raises(ConfigError, match="pip install wandb"):
        run(config)


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_averaged_weights_are_what_is_saved(config_of, kind) -> None:
    config = config_of(kind)
    config["trainer"]["ema"] = 0.5
    result = run(config)
    loaded = aronnax.load(str(result.folder), device="cpu")
    for name, tensor in loaded.state_dict().items():
        assert (tensor == result.model.state_dict()[name]).all(), name


def test_another_model_in_the_same_folder_is_refused(config_of) -> None:
    run(config_of("ctc"))
    with pytest.raises(ConfigError, match=r"trainer\.resume=never"):
        run(config_of("hybrid"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_step=5", r"trainer\.max_step .*did you mean max_steps"),
        ("model.encoder.n_layer=5", r"model\.encoder\.n_layer .*did you mean n_layers"),
        ("task.freez=[]", r"task\.freez .*did you mean freeze"),
        ("optm.lr=1", r"optm .*did you mean optim"),
        ("model.type=ctcc", r"model\.type is 'ctcc'.*did you mean ctc"),
        ("trainer.max_steps=many", r"trainer\.max_steps is 'many'"),
        ("trainer.max_steps", "not an override"),
    ],
)
def test_a_misspelt_key_or_value_is_named_with_the_nearest(
    config_of, tmp_path: Path, override, message
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_overrides_reach_every_section(config_of, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config_of()))
    config = load_config(
        path, ["trainer.max_steps=7", "model.encoder.n_layers=1", "optim.multipliers={encoder: 0.1}"]
    )
    assert config.trainer.max_steps == 7
    assert config.model["encoder"]["n_layers"] == 1
    assert config.optim.multipliers == {"encoder": 0.1}


@pytest.mark.parametrize("name", ["ctc", "rnnt", "tdt", "hybrid", "small", "finetune"])
def test_the_examples_are_valid(name: str) -> None:
    config = load_config(Path("examples/asr") / f"fastconformer_{name}.yaml")
    assert config.output == f"runs/fastconformer_{name}"


def test_tokenizer_options_that_contradict_each_other_are_refused(config_of) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        from_dict(TrainConfig, config_of(tokenizer={"path": "x"}))
    with pytest.raises(ConfigError, match="choose one way"):
        from_dict(TrainConfig, config_of(tokenizer={"add": ["x"]}))
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        run(config_of(tokenizer={"kind": None}))
