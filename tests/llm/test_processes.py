"""Two processes train a language model as one does on the same global batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

# Trains a tiny language model; each process has its rows of the global batches, which have unlike many tokens.
WORKER = """
import json, sys
from aronnax.collections.common.data.config import DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, run
from aronnax.collections.llm.data import TextData, TextDataConfig, read_rows
from aronnax.collections.llm.task import LanguageModelTask, LanguageModelTaskConfig
from torch.utils.data import DataLoader
from tests.llm.small import language_model

output, file, strategy, devices, log = sys.argv[1:6]

class Batches(TextData):
    def _share(self, numbers):
        rows = list(read_rows(file, self.tokenizer))
        mine = numbers[self.trainer.global_rank::self.trainer.world_size]
        return self._batch([[rows[number]] for number in mine])
    def train_dataloader(self):
        return DataLoader([self._share(one) for one in ([0, 1, 2, 3], [3, 1], [2, 0])], batch_size=None)

class Witness(LanguageModelTask):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        with open(f"{log}.{self.global_rank}", "a") as file:
            file.write(json.dumps(float(loss)) + "\\n")
        return loss

def make(resuming, say):
    model = language_model()
    data = Batches(TextDataConfig((file,), {"dev": file}), model.text, model.context)
    return Prepared(Witness(model, config.optim, LanguageModelTaskConfig(answer_tokens=2)), data)

config = RunConfig(
    DataConfig(), output, optim=OptimConfig(lr=5e-3, warmup_steps=1, schedule="noam"),
    trainer=TrainerConfig(max_steps=6, devices=int(devices), strategy=strategy, accelerator="cpu",
                          loggers=(), monitor="val/loss", val_every=6, checkpoint_every=6),
)
run(config, make)
"""
CHATS = [
    ("seven", "three"),
    ("Hi", "Hello, world! How do you do?"),
    ("Say nine.", "nine"),
    ("one two", "3, 4"),
]


def train(tmp_path: Path, strategy: str, devices: int) -> tuple[list[float], dict[str, dict[str, float]]]:
    """The loss of each step, the mean over processes, and the scores."""
    script, file, output = tmp_path / "worker.py", tmp_path / "chats.jsonl", tmp_path / strategy
    script.write_text(WORKER)
    roles = ("user", "assistant")
    lines = [{"messages": [{"role": r, "content": c} for r, c in zip(roles, chat)]} for chat in CHATS]
    file.write_text("\n".join(map(json.dumps, lines)))
    log = tmp_path / f"{strategy}.loss"
    command = [sys.executable, str(script), str(output), str(file), strategy, str(devices), str(log)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, timeout=900)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    found = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(tmp_path.glob(f"{strategy}.loss.*"))
    ]
    assert len(found) == devices
    return [sum(step) / devices for step in zip(*found)], json.loads((output / "scores.json").read_text())


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    one, scores = train(tmp_path, "auto", 1)
    both, their_scores = train(tmp_path, "ddp", 2)
    assert both == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0]
    for moment in ("before", "after"):
        assert their_scores[moment] == pytest.approx(scores[moment], rel=1e-4)
