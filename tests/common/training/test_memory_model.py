"""What a training step takes on a CPU: counted, fitted, predicted; for a miniature of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aronnax.collections.common.training.batch_sizes import Bucket, find_batch_sizes
from aronnax.collections.common.training.memory_model import Measured, MeasuredModel, MemoryModel
from aronnax.collections.common.training.steps import (
    FullSteps,
    OnCUDA,
    peak_allocated,
    peak_bytes,
    tensor_bytes,
)

pytest.importorskip("lightning")

RATE = 8000
BUCKETS = [Bucket(t, int(rate * t)) for t in (1.5, 3.0, 6.0) for rate in (3, 6)]


def tiny_steps(kind: str, device: str = "cpu", **trainer: Any) -> FullSteps:
    from aronnax.collections.asr.task import make_task, task_class
    from aronnax.collections.common.optim import OptimConfig
    from aronnax.collections.common.text import CharacterTokenizer
    from aronnax.collections.common.training import TrainerConfig
    from aronnax.core.config import from_dict
    from aronnax.core.registry import model_class

    torch.manual_seed(0)
    section: dict[str, Any] = {
        "preprocessor": {"sample_rate": RATE, "n_mels": 32, "n_fft": 256},
        "encoder": {
            "feat_in": 32,
            "n_layers": 2,
            "d_model": 32,
            "n_heads": 2,
            "subsampling_factor": 4,
            "subsampling_conv_channels": 16,
        },
        "vocab_size": 5,
    }
    task: dict[str, Any] = {}
    if kind != "ctc":
        section |= {"prediction": {"hidden": 32}, "joint": {"hidden": 32}, "durations": [0, 1, 2]}
        task = {"omega": 0.0}
    cls: Any = model_class(kind)
    model = cls(from_dict(cls.Config, section), CharacterTokenizer(list(" abcd")))
    config = from_dict(task_class(kind).Config, task)
    made = make_task(model, OptimConfig(warmup_steps=1), config)
    return FullSteps(made, TrainerConfig(accelerator="auto", **trainer), torch.device(device))


def test_the_counter_sees_what_is_live_at_once() -> None:
    def work() -> None:
        first = torch.empty(1_000_000)
        second = torch.empty(500_000)
        del first
        third = torch.empty(250_000)
        del second, third

    assert peak_allocated(work) == pytest.approx(6_000_000, rel=1e-3)


def test_the_counter_sees_what_operators_take_inside() -> None:
    x = torch.randn(1000, 1000)
    assert peak_allocated(lambda: x.T.contiguous().sort(dim=0)) > 2 * x.nbytes


def test_a_shared_storage_counts_once() -> None:
    x = torch.zeros(100)
    assert tensor_bytes([{"a": x, "b": x[:50]}, (x,)]) == 400


def test_a_known_formula_is_recovered() -> None:
    def takes(bucket: Bucket, size: int) -> int:
        t, u = bucket.seconds, bucket.tokens
        return int(1e8 + size * (2e5 * t + 3e3 * t * t + 1e4 * u))

    points = [Measured(bucket, size, takes(bucket, size)) for bucket in BUCKETS for size in (1, 4, 32)]
    model = MemoryModel.fit(points)
    assert max(map(abs, model.errors(points))) < 1e-4
    unseen = Bucket(20.0, 300)
    assert model.predict(unseen, 100) == pytest.approx(takes(unseen, 100), rel=0.01)


@pytest.mark.parametrize("kind", ["ctc", "transducer", "hybrid"])
def test_an_unseen_step_is_predicted_within_a_tenth(kind: str) -> None:
    steps = tiny_steps(kind)
    oracle = MeasuredModel.of(steps, BUCKETS, budget=2**26, room=2**27)
    oracle.learn()
    for bucket, size in ((Bucket(4.0, 20), 6), (Bucket(2.0, 6), 12)):
        assert oracle.model.predict(bucket, size) == pytest.approx(peak_bytes(steps, bucket, size), rel=0.1)


def test_the_batches_found_really_stay_within_the_budget() -> None:
    steps = tiny_steps("hybrid")
    oracle = MeasuredModel.of(steps, BUCKETS, budget=2**26, room=2**27)
    oracle.learn()
    for found in find_batch_sizes(BUCKETS, oracle):
        assert 0.8 * 2**26 < peak_bytes(steps, found.bucket, found.size) <= 2**26


def test_steps_leave_the_weights_as_they_are_and_make_the_optimizers_states() -> None:
    steps = tiny_steps("ctc")
    before = [weight.clone() for weight in steps.task.model.parameters()]
    steps.run(BUCKETS[0], 2)
    assert all(torch.equal(a, b) for a, b in zip(before, steps.task.model.parameters()))
    weights = sum(weight.nbytes for weight in before)
    assert steps.at_rest() > 4 * weights


def test_copies_the_trainer_keeps_are_counted() -> None:
    plain, averaged = tiny_steps("ctc"), tiny_steps("ctc", ema=0.999)
    weights = sum(weight.nbytes for weight in plain.task.model.parameters())
    assert averaged.at_rest() - plain.at_rest() == weights


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose memory really runs out")
@pytest.mark.parametrize("kind", ["ctc", "transducer", "hybrid"])
def test_a_gpu_that_runs_out_of_memory_goes_on(kind: str) -> None:
    steps = tiny_steps(kind, "cuda")
    oracle = OnCUDA(steps, BUCKETS, budget=2**30)
    try:
        assert not oracle.fits(BUCKETS[-1], 100_000)
        found = list(find_batch_sizes(BUCKETS, oracle))
        assert all(oracle.fits(one.bucket, one.size) for one in found)
        assert max(one.trials for one in found) < 15
    finally:
        oracle.close()
