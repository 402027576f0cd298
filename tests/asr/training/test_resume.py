from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from aronnax.collections.asr.task import RecognitionTask
from aronnax.collections.asr.training import load_config, train

# Runs `aronnax train`, and notes the recordings and the exact loss of every batch as it is trained on.
WITNESS = """
import json, sys
from aronnax.collections.asr.task import RecognitionTask

path, step = sys.argv[1], RecognitionTask.training_step

def noted(self, batch, batch_idx):
    loss = step(self, batch, batch_idx)
    row = {"step": self.global_step, "batch": self.trainer.fit_loop.total_batch_idx, "ids": batch.ids}
    with open(path, "a") as file:
        file.write(json.dumps({**row, "loss": float(loss).hex()}) + "\\n")
    return loss

RecognitionTask.training_step = noted
from aronnax.cli.main import main
main(["train", *sys.argv[2:]])
"""


def start(tmp_path: Path, name: str, config: Path, *overrides: str) -> subprocess.Popen[bytes]:
    script = tmp_path / "witness.py"
    script.write_text(WITNESS)
    output = f"output={tmp_path / name}"
    command = [sys.executable, str(script), str(tmp_path / f"{name}.jsonl"), str(config), output, *overrides]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> str:
    said = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, said
    return said


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def kill_at(process: subprocess.Popen[bytes], path: Path, batches: int) -> None:
    """Ends the run without warning as soon as it has trained on so many batches."""
    until = time.monotonic() + 120
    while len(rows(path)) < batches:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def written_config(tiny_section, tone_manifest, tone_texts, tmp_path):
    def write(accumulate: int = 1) -> Path:
        section = tiny_section("hybrid")
        section["preprocessor"]["dither"] = 1e-3
        section["spec_augment"] = {"freq_masks": 1, "freq_width": 6, "time_masks": 2}
        config = {
            "output": "set on the command line",
            "model": section,
            "tokenizer": {"kind": "characters"},
            "data": {
                "train": str(tone_manifest(tone_texts * 3)),
                "validation": str(tone_manifest(name="validation")),
                "batching": {"batch_size": 4, "buckets": 2},
                "num_workers": 1,
            },
            "optim": {"lr": 3e-3, "warmup_steps": 2},
            "trainer": {
                "max_steps": 14,
                "val_every": 5,
                "checkpoint_every": 3,
                "accelerator": "cpu",
                "accumulate": accumulate,
                "loggers": [],
            },
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal's: a shell starts what runs behind it with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("asked", "cause", "status"), [(signal.SIGTERM, "SIGTERM", "143"), (signal.SIGINT, "Ctrl-C", "130")]
)
def test_a_run_asked_to_end_says_where_it_goes_on_and_does(
    written_config, tmp_path, monkeypatch, asked, cause, status
) -> None:
    seen: list[tuple[object, float]] = []
    step, stop = RecognitionTask.training_step, 0

    def noted(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        seen.append((tuple(batch.ids), float(loss)))
        if len(seen) == stop:
            os.kill(os.getpid(), asked)
        return loss

    monkeypatch.setattr(RecognitionTask, "training_step", noted)
    trainer = ["trainer.max_steps=4", "trainer.checkpoint_every=100", "trainer.val_every=100"]
    path = written_config()

    def run(output: str) -> list[str]:
        said: list[str] = []
        overrides = [*trainer, "data.num_workers=0", "data.validation=[]", f"output={tmp_path / output}"]
        with pytest.raises(SystemExit, match=status) if stop else nullcontext():
            train(load_config(path, overrides), said.append)
        return said

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Total length of .* is zero")
        said = run("straight")
    assert not [line for line in said if line.startswith(("before", "after"))], "there is no validation set"
    straight = list(seen)
    seen.clear()
    stop = 2
    said = run("terminated")
    saved = f"saved in {tmp_path / 'terminated' / 'last.ckpt'}"
    assert said[-1] == f"stopped by {cause} after step 2, {saved}: the same command goes on at the next batch"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(seen) == 2
    stop = 0
    assert any(line.startswith("going on from") for line in run("terminated"))
    assert seen == straight


@pytest.mark.usefixtures("_interruptible")
def test_a_second_ctrl_c_ends_at_once(written_config, tmp_path, monkeypatch) -> None:
    def impatient(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the step went on")

    monkeypatch.setattr(RecognitionTask, "training_step", impatient)
    said: list[str] = []
    overrides = ["data.num_workers=0", "data.validation=[]", f"output={tmp_path / 'run'}"]
    with pytest.raises(SystemExit, match="130"):
        train(load_config(written_config(), overrides), said.append)
    assert said[-1] == "stopped by Ctrl-C before anything was saved: the same command begins anew"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_resumed_run_that_ends_before_its_first_step_says_what_it_goes_on_from(
    written_config, tmp_path, monkeypatch
) -> None:
    path, said = written_config(), []
    overrides = ["data.num_workers=0", "data.validation=[]", f"output={tmp_path / 'run'}"]
    train(load_config(path, [*overrides, "trainer.max_steps=3"]), said.append)

    def early(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(RecognitionTask, "on_fit_start", early)
    with pytest.raises(SystemExit, match="130"):
        train(load_config(path, [*overrides, "trainer.max_steps=4"]), said.append)
    goes_on = f"the same command goes on from {tmp_path / 'run' / 'last.ckpt'}"
    assert said[-1] == f"stopped by Ctrl-C before the first step: {goes_on}"


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_goes_on_with_the_very_next_batch(written_config, tmp_path, accumulate) -> None:
    config = written_config(accumulate)
    finish(start(tmp_path, "straight", config))
    straight = rows(tmp_path / "straight.jsonl")
    assert len(straight) == 14 * accumulate
    assert len({tuple(row["ids"]) for row in straight}) > 6, "batches differ, so their order can be compared"

    killed = tmp_path / "killed.jsonl"
    kill_at(start(tmp_path, "killed", config), killed, 8 * accumulate)
    before = rows(killed)
    assert before == straight[: len(before)]
    killed.unlink()
    said = finish(start(tmp_path, "killed", config))
    assert "going on from" in said
    after = rows(killed)
    assert after[0]["step"] % 3 == 0, "it goes on where a checkpoint was saved"
    assert after[0]["step"] > 0
    assert after == straight[-len(after) :]
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("straight", "killed")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_finished_run_started_again_with_more_steps_goes_on(written_config, tmp_path) -> None:
    config = written_config()
    schedule = "optim.schedule=constant"
    finish(start(tmp_path, "straight", config, schedule))
    finish(start(tmp_path, "parts", config, schedule, "trainer.max_steps=5"))
    finish(start(tmp_path, "parts", config, schedule))
    assert rows(tmp_path / "parts.jsonl") == rows(tmp_path / "straight.jsonl")
