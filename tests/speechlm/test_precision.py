"""Speech language models learn in bfloat16, and with layers computed twice, as they do without."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("peft")

from lightning.pytorch import Callback

from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig
from aronnax.collections.common.training.trainer import build_trainer
from aronnax.collections.speechlm.bestow.layered import LayeredConfig
from aronnax.collections.speechlm.model import SpeechLM
from aronnax.collections.speechlm.task import SpeechLMTask, SpeechLMTaskConfig
from tests.speechlm import tiny
from tests.speechlm.bestow import conftest as bestow_tests
from tests.speechlm.salm import test_salm as salm_tests

DROPLESS = LayeredConfig(n_heads=2, attention_dropout=0.0, layer_dropout=0.0, zero_start=False)


def of_salm(model: Any) -> Any:
    return salm_tests.batch_of(model, salm_tests.ASKED)


def of_bestow(model: Any) -> Any:
    spoken, question = bestow_tests.spoken, bestow_tests.question
    rows = [(spoken("say", ...), "one two"), (spoken(..., "how many", seconds=1.4, seed=1), "three")]
    return bestow_tests.batch_of(model, *rows, (question("say four"), "four"))


Made = tuple[Callable[[], SpeechLM], Callable[[Any], Any]]
MODELS: dict[str, Made] = {
    "salm": (tiny.salm, of_salm),
    "voicetextblender": (tiny.voicetextblender, of_salm),
    "bestow": (bestow_tests.bestow, of_bestow),
    "layered bestow": (lambda: bestow_tests.bestow(layered=DROPLESS), of_bestow),
}


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        self.found.append(float(outputs["loss"]))


def learned(name: str, output: Path, **options: Any) -> tuple[list[float], dict[str, float]]:
    """Losses of two steps, and what is found in validation."""
    make, batch_of = MODELS[name]
    model, losses = make(), Losses()
    optim = OptimConfig(lr=1e-3, schedule="constant", warmup_steps=0)
    task = SpeechLMTask(model, optim, SpeechLMTaskConfig(freeze=(), answer_tokens=4))
    settings = {"max_steps": 2, "val_every": 2, "checkpoint_every": 99, "accelerator": "cpu", "loggers": ()}
    trainer = build_trainer(TrainerConfig(monitor="val/loss", **settings, **options), output, {})  # type: ignore[arg-type]
    trainer.callbacks.insert(0, losses)  # type: ignore[attr-defined]
    loader = torch.utils.data.DataLoader([batch_of(model)], batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, loader, loader)
    return losses.found, {key: float(value) for key, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_learns_as_float32(name: str, tmp_path: Path) -> None:
    whole, scores = learned(name, tmp_path / "whole")
    for precision in ("bf16-mixed", "bf16-true"):
        losses, found = learned(name, tmp_path / precision, precision=precision)
        assert losses[0] == pytest.approx(whole[0], rel=0.01)
        assert losses != whole, "something is computed in bfloat16"
        # Adam's first steps follow the signs of gradients, which rounding turns round where they are next to 0.
        gained, expected = losses[0] - found["val/loss"], whole[0] - scores["val/loss"]
        assert gained == pytest.approx(expected, rel=0.15)
        assert found["train/dropped_updates"] == 0


def gradients(name: str, twice: bool, freeze: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], int]:
    """What each weight is told, and how often a layer of the language model was computed."""
    make, batch_of = MODELS[name]
    model = make()
    config = SpeechLMTaskConfig(freeze=freeze, learn=(), gradient_checkpointing=twice)
    task = SpeechLMTask(model, OptimConfig(), config)
    task._set_modes()
    computed: list[int] = []
    layer: Any = model.llm.causal.model.layers[0]  # type: ignore[union-attr,index]
    layer.input_layernorm.register_forward_hook(lambda *_: computed.append(1))
    task.losses(batch_of(model))["loss"].backward()
    found = {key: one.grad for key, one in model.named_parameters() if one.grad is not None}
    return found, len(computed)


@pytest.mark.parametrize("freeze", [(), ("llm",)], ids=["all learns", "frozen language model"])
@pytest.mark.parametrize("name", MODELS)
def test_layers_computed_twice_have_the_same_gradients(name: str, freeze: tuple[str, ...]) -> None:
    once, count = gradients(name, False, freeze)
    again, recount = gradients(name, True, freeze)
    assert (count, recount) == (1, 2)
    assert once.keys() == again.keys()
    assert any(float(one.abs().max()) > 1e-4 for one in once.values())
    for key, one in once.items():
        torch.testing.assert_close(again[key], one, atol=1e-6, rtol=1e-6)
