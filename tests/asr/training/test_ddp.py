from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# Runs `aronnax train` and notes each batch of each process.
WITNESS = """
import json, os, sys
from aronnax.collections.asr.task import RecognitionTask

path, step = sys.argv[1], RecognitionTask.training_step

def noted(self, batch, batch_idx):
    loss = step(self, batch, batch_idx)
    with open(f"{path}.{self.global_rank}", "a") as file:
        file.write(json.dumps({"ids": batch.ids, "loss": float(loss)}) + "\\n")
    return loss

RecognitionTask.training_step = noted
from aronnax.cli.main import main
main(["train", *sys.argv[2:]])
"""


def run(tmp_path: Path, name: str, config: Path, *overrides: str) -> list[list[dict]]:
    """The rows of each process."""
    script = tmp_path / "witness.py"
    script.write_text(WITNESS)
    command = [
        sys.executable,
        str(script),
        str(tmp_path / name),
        str(config),
        f"output={tmp_path / name}.run",
    ]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *overrides], env=environment, capture_output=True, timeout=400)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.count(b"the model is in") == 1, "only the first process speaks"
    files = sorted(tmp_path.glob(f"{name}.[0-9]"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_global_batches(
    tiny_section, tone_manifest, tone_texts, tmp_path
) -> None:
    encoder = {"conv_norm_type": "layer_norm", "dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}
    section = tiny_section("hybrid", **encoder)
    section["prediction"]["dropout"] = section["joint"]["dropout"] = 0.0
    config = {
        "output": "set on the command line",
        "model": section,
        "tokenizer": {"kind": "characters"},
        "task": {"omega": 0.0},
        "data": {
            "train": str(tone_manifest(tone_texts * 2)),
            "validation": str(tone_manifest(tone_texts[:7], name="validation")),
            "validation_batch_size": 2,
            "batching": {"batch_size": 2, "buckets": 1},
            "num_workers": 0,
        },
        "optim": {"lr": 2e-3, "warmup_steps": 2},
        "trainer": {"max_steps": 10, "accelerator": "cpu", "loggers": []},
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    (one,) = run(tmp_path, "one", path, "trainer.accumulate=2")
    both = run(tmp_path, "two", path, "trainer.devices=2", "trainer.strategy=ddp")
    assert [len(rows) for rows in both] == [10, 10]
    together = [row for pair in zip(*both) for row in pair]
    assert [row["ids"] for row in together] == [row["ids"] for row in one]
    assert [row["loss"] for row in together] == pytest.approx([row["loss"] for row in one], rel=1e-3)
    scores = [json.loads((tmp_path / f"{name}.run/scores.json").read_text()) for name in ("one", "two")]
    for moment in ("before", "after"):
        assert scores[1][moment] == pytest.approx(scores[0][moment], rel=1e-3)
