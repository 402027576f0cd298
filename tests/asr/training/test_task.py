from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from aronnax.collections.asr.hybrid.task import HybridTaskConfig
from aronnax.collections.asr.long_form.engine import _encode, _lengthened
from aronnax.collections.asr.task import TaskConfig, make_task
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig
from aronnax.collections.common.training.trainer import build_trainer
from aronnax.core.errors import ConfigError
from aronnax.core.task import step_seed

OPTIM = OptimConfig(lr=3e-3, schedule="constant", warmup_steps=0)


class Watch(Callback):
    """Keeps the model's state and its modes after every step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.evaluating: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.states.append({name: tensor.clone() for name, tensor in pl_module.model.state_dict().items()})
        self.evaluating.append(not pl_module.model.encoder.training)


def fit(task: Any, batches: list[Any], output: Path, **options: Any) -> tuple[Watch, dict[str, float]]:
    watch = Watch()
    options = {
        "accelerator": "cpu",
        "loggers": (),
        "max_steps": len(batches),
        "checkpoint_every": 99,
        **options,
    }
    trainer = build_trainer(TrainerConfig(**options), output, {})
    trainer.callbacks.insert(0, watch)
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, loader, loader)
    return watch, {name: float(value) for name, value in trainer.callback_metrics.items()}


def encoder_changed(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(old[name], new[name]) for name in old if name.startswith("encoder."))


def test_a_part_with_a_first_step_rests_altogether_until_then(tiny_model, tone_batch, tone_texts, tmp_path):
    model = tiny_model("ctc")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optim = OptimConfig(lr=3e-3, schedule="constant", warmup_steps=0, first_steps={"encoder": 2})
    batch = tone_batch(tone_texts, model.tokenizer)
    watch, _ = fit(make_task(model, optim), [batch] * 4, tmp_path)
    assert watch.evaluating == [True, True, False, False]
    assert [encoder_changed(start, state) for state in watch.states] == [False, False, True, True]
    head = "decoder.decoder_layers.0.weight"
    assert not torch.equal(start[head], watch.states[0][head]), "the head learns from the first step"


def test_frozen_parts_do_not_change_though_the_rest_learns(tiny_model, tone_batch, tone_texts, tmp_path):
    model = tiny_model("hybrid")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = make_task(model, OPTIM, HybridTaskConfig(freeze=("encoder", "*.lstm.*")))
    watch, _ = fit(task, [tone_batch(tone_texts, model.tokenizer)] * 3, tmp_path)
    for name, tensor in start.items():
        frozen = name.startswith(("encoder.", "preprocessor.")) or ".lstm." in name
        assert torch.equal(tensor, watch.states[-1][name]) == frozen, name


def test_an_update_that_is_not_finite_is_dropped_and_counted(tiny_model, tone_batch, tone_texts, tmp_path):
    model = tiny_model("ctc", conv_norm_type="layer_norm")
    good, bad = (tone_batch(tone_texts, model.tokenizer) for _ in range(2))
    bad.signal[0, 100] = float("nan")
    watch, metrics = fit(make_task(model, OPTIM), [good, bad, good], tmp_path)
    first, second, third = watch.states
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert encoder_changed(second, third)
    assert all(torch.isfinite(tensor).all() for tensor in third.values())
    assert metrics["train/dropped_updates"] == 1


@pytest.mark.parametrize("kind", ["transducer", "hybrid"])
def test_mixed_precision_trains_and_validates(tiny_model, tone_batch, tone_texts, tmp_path, kind):
    model = tiny_model(kind)
    batch = tone_batch(tone_texts, model.tokenizer)
    _, metrics = fit(make_task(model, OPTIM), [batch] * 3, tmp_path, precision="bf16-mixed", val_every=3)
    assert all(value == value for value in metrics.values())
    assert metrics["train/dropped_updates"] == 0
    assert metrics["val/tdt_wer"] > 0
    assert model.dtype == torch.float32


def test_the_hybrid_loss_is_the_weighted_sum_of_its_heads(tiny_model, tone_batch, tone_texts) -> None:
    model = tiny_model("hybrid").eval()
    batch = tone_batch(tone_texts, model.tokenizer)
    losses = make_task(model, OPTIM, HybridTaskConfig(ctc_weight=0.25)).eval().losses(batch)
    assert float(losses["loss"]) == pytest.approx(
        0.75 * float(losses["tdt_loss"]) + 0.25 * float(losses["ctc_loss"])
    )
    default = make_task(model, OPTIM).eval().losses(batch)
    assert float(default["loss"]) == pytest.approx(
        0.7 * float(losses["tdt_loss"]) + 0.3 * float(losses["ctc_loss"])
    )


def test_validation_does_not_depend_on_how_the_set_is_batched(tiny_model, tone_batch, tone_texts, tmp_path):
    model = tiny_model("hybrid")
    task = make_task(model, OPTIM)
    scores = []
    for cuts in ((8,), (1, 3, 4)):
        edges = [sum(cuts[:n]) for n in range(len(cuts) + 1)]
        batches = [tone_batch(tone_texts[a:b], model.tokenizer) for a, b in pairwise(edges)]
        trainer = build_trainer(TrainerConfig(accelerator="cpu", loggers=()), tmp_path, {})
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        (metrics,) = trainer.validate(task, loader, verbose=False)
        scores.append(metrics)
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_training_hears_short_recordings_as_transcribe_does(tiny_model, tone_batch) -> None:
    model = tiny_model("ctc").eval()
    task = make_task(model, OPTIM)
    batch = tone_batch(("a", "b c d", "d c"), model.tokenizer)
    assert int(batch.signal_lengths.min()) < model.sample_rate < int(batch.signal_lengths.max())
    with torch.inference_mode():
        output = task.encode(batch)
    for row, length in enumerate(batch.signal_lengths.tolist()):
        signal = batch.signal[row, :length].numpy()
        with torch.inference_mode():
            alone = _encode(model, [_lengthened(signal, model.sample_rate)[0]], None)
        assert output.lengths[row] == alone.lengths[0]
        states = output.states[row, : int(alone.lengths[0])]
        torch.testing.assert_close(states, alone.states[0, : len(states)], atol=1e-4, rtol=1e-3)


def test_seeds_differ_between_steps_and_processes_and_nothing_else() -> None:
    seeds = {step_seed(0, step, rank) for step in range(100) for rank in range(4)}
    assert len(seeds) == 400
    assert step_seed(3, 7, 1) == step_seed(3, 7, 1)


def test_a_model_without_a_tokenizer_cannot_be_trained(tiny_model) -> None:
    model = tiny_model("ctc")
    model.tokenizer = None
    with pytest.raises(ConfigError, match="no tokenizer"):
        make_task(model, OPTIM, TaskConfig())
