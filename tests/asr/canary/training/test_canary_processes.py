from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml


@pytest.mark.slow
def test_two_processes_score_a_validation_set_as_one_does(canary_config, tmp_path) -> None:
    config = canary_config(steps=4, data={"validation_batch_size": 2})
    config["trainer"] |= {"loggers": [], "checkpoint_every": 99}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    scores = []
    for name, options in (("one", []), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        output = tmp_path / name
        command = [sys.executable, "-m", "aronnax.cli.main", "train", str(path), f"output={output}", *options]
        result = subprocess.run(command, env=environment, capture_output=True, timeout=400)
        assert result.returncode == 0, result.stderr.decode()
        before = json.loads((output / "scores.json").read_text())["before"]
        scores.append({key: value for key, value in before.items() if "rtfx" not in key})
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    assert "val/wer/en-de" in scores[0]
