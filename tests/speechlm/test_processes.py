"""Two processes train as one on the same global batches, with whole models and with weights shared out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aronnax.core.loading import load
from tests.speechlm.tiny import RATE, noise

# Trains a tiny SALM through `common.training.run`; each process has its rows of the global batches.
WORKER = """
import json, os, sys
import torch
from aronnax.collections.common.data.config import DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, run
from aronnax.collections.speechlm.task import SpeechLMTask, SpeechLMTaskConfig
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from tests.speechlm.salm.test_salm import ASKED, batch_of
from tests.speechlm.tiny import salm

output, steps, strategy, devices, log, freeze, rests, killed_at, pack = sys.argv[1:10]
ROWS = [ASKED[i] for i in (0, 1, 2, 3, 1, 3, 0, 2)]

class Batches(LightningDataModule):
    validation_names = ("same",)
    def __init__(self, model):
        super().__init__()
        self.model = model
    def _share(self, rows):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return rows[rank::world]
    def train_dataloader(self):
        # Global batches of four; in the second one, one of two processes hears nothing.
        batches = [[0, 1, 4, 6], [2, 3, 6, 5], [4, 7, 1, 2]]
        made = [batch_of(self.model, [ROWS[i] for i in self._share(one)]) for one in batches]
        return DataLoader(made, batch_size=None)
    def val_dataloader(self):
        return DataLoader([batch_of(self.model, self._share(ROWS[:4]))], batch_size=None)

class Witness(SpeechLMTask):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        with open(f"{log}.{self.global_rank}", "a") as file:
            file.write(json.dumps(float(loss)) + "\\n")
        return loss
    def on_train_batch_end(self, *rest):
        if self.global_step == int(killed_at):
            os._exit(0)

def make(resuming, say):
    model = salm(seed=1)
    frozen = tuple(freeze.split(",")) if freeze else ()
    task = Witness(model, config.optim, SpeechLMTaskConfig(freeze=frozen, pack=json.loads(pack)))
    return Prepared(task, Batches(model))

config = RunConfig(
    DataConfig(), output,
    optim=OptimConfig(lr=2e-3, warmup_steps=1, schedule="noam", first_steps=json.loads(rests)),
    trainer=TrainerConfig(max_steps=int(steps), devices=int(devices), strategy=strategy, accelerator="cpu",
                          loggers=(), monitor="val/loss", val_every=3, checkpoint_every=3),
)
run(config, make)
"""


def train(
    tmp_path: Path,
    name: str,
    strategy: str,
    devices: int,
    *,
    steps: int = 6,
    output: str | None = None,
    freeze: str = "",
    rests: dict[str, int] | None = None,
    killed_at: int = 0,
    pack: int | bool = False,
) -> list[float]:
    """The loss of each step, over all processes."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    log = tmp_path / f"{name}.loss"
    arguments = [str(tmp_path / (output or name)), str(steps), strategy, str(devices), str(log), freeze]
    arguments += [json.dumps(rests or {}), str(killed_at), json.dumps(pack)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, timeout=900
    )
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    found = [
        json.loads(f"[{','.join(file.read_text().split())}]")
        for file in sorted(tmp_path.glob(f"{name}.loss.*"))
    ]
    assert len(found) == devices
    return [sum(step) / devices for step in zip(*found)]


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["", "llm,perception.encoder"])
def test_two_processes_learn_as_one(tmp_path: Path, freeze: str) -> None:
    frozen = freeze or "perception.encoder"  # its batch norm would see other rows in each process
    one = train(tmp_path, "one", "auto", 1, freeze=frozen)
    for strategy in ("ddp", "fsdp2"):
        both = train(tmp_path, strategy, strategy, 2, freeze=frozen)
        assert both == pytest.approx(one, rel=1e-4)
        scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", strategy)]
        assert scores[1]["before"] == pytest.approx(scores[0]["before"], rel=1e-4)
        assert scores[1]["after"] == pytest.approx(scores[0]["after"], rel=1e-3)
        ours, theirs = (load(tmp_path / name / "model", device="cpu") for name in ("one", strategy))
        for key, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[key], atol=1e-4, rtol=1e-3)
        asked = [{"role": "user", "content": ["repeat :", {"type": "audio", "audio": noise(0.5)}]}]
        assert ours.generate(asked).tokens == theirs.generate(asked).tokens  # type: ignore[attr-defined]
    assert RATE == 8000


@pytest.mark.slow
def test_packed_rows_learn_as_rows_of_their_own_in_two_processes(tmp_path: Path) -> None:
    # Each process puts its two conversations into one row.
    apart = train(tmp_path, "one", "auto", 1, freeze="perception.encoder")
    for strategy in ("ddp", "fsdp2"):
        packed = train(tmp_path, strategy, strategy, 2, freeze="perception.encoder", pack=1000)
        assert packed == pytest.approx(apart, rel=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_under_another_strategy_and_back(tmp_path: Path) -> None:
    # What rests has no state yet in the first checkpoint.
    options: dict[str, Any] = {"freeze": "perception.encoder", "rests": {"perception.proj": 5}, "steps": 15}
    straight = train(tmp_path, "straight", "auto", 1, **options)
    legs = [("auto", 1), ("fsdp2", 2), ("auto", 1), ("ddp", 2), ("fsdp2", 2)]
    for number, (strategy, devices) in enumerate(legs):
        end = 3 * (number + 1)
        losses = train(
            tmp_path, f"leg-{number}", strategy, devices, output="parts", killed_at=end % 15, **options
        )
        assert losses == pytest.approx(straight[end - 3 : end], rel=1e-4), strategy
