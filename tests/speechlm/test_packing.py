"""Conversations that share rows of the language model learn as in rows of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("lhotse")
pytest.importorskip("lightning")
pytest.importorskip("peft")

from aronnax.collections.common.data.loading import DataStats
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training.callbacks import Shares
from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.chat.messages import Audio, Message
from aronnax.collections.llm.loss import IGNORED
from aronnax.collections.speechlm.bestow.layered import LayeredConfig
from aronnax.collections.speechlm.bestow.reader import ReaderConfig
from aronnax.collections.speechlm.conversation.batch import ConversationBatch
from aronnax.collections.speechlm.model import SpeechLM
from aronnax.collections.speechlm.task import SpeechLMTask, SpeechLMTaskConfig
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError, OptionError
from aronnax.core.task import Task
from tests.llm.backbone.shapes import SHAPES
from tests.speechlm import tiny
from tests.speechlm.bestow import conftest as bestow_tests
from tests.speechlm.salm.test_salm import batch_of

LOSS, GRADIENT = 1e-6, 1e-5
ONE_ROW = 10_000
STILL = ReaderConfig(n_heads=2, attention_dropout=0.0, layer_dropout=0.0, ffn_dropout=0.0)


def salm_over(architecture: str) -> SpeechLM:
    settings = SHAPES[architecture] | {"vocab_size": len(tiny.WORDS)}
    return tiny.salm(backbone=BackboneConfig(architecture, settings), lora=None)


MODELS: dict[str, Callable[[], SpeechLM]] = {
    "salm": lambda: tiny.salm(lora=None),
    "salm with low-rank layers": tiny.salm,
    "salm over qwen3": lambda: salm_over("qwen3"),
    "salm over smollm3, whose layers look back 8 positions": lambda: salm_over("smollm3"),
    "voicetextblender": tiny.voicetextblender,
    "bestow": lambda: bestow_tests.bestow(reader=STILL),
}


def ragged(model: Any, seed: int, rows: int = 7) -> ConversationBatch:
    """Conversations of one or two turns with none to three recordings; the first is long, the second text alone."""
    draw = random.Random(seed)
    bare = isinstance(model, bestow_tests.BESTOW)
    rate, asked = (bestow_tests.RATE, "say") if bare else (tiny.RATE, "repeat :")
    conversations = []
    for row in range(rows):
        turns = []
        for _ in range(1 + (row == 0 or draw.random() < 0.3)):
            parts: list[Any] = [asked, " ".join(draw.choices(tiny.DIGITS, k=draw.randint(1, 5)))]
            for heard in range(3 if row == 0 else 0 if row == 1 else draw.randint(0, 2)):
                seconds = draw.uniform(0.2, 1.0) * (1 if row else 1.5)
                noise, _ = tiny.noise(seconds, seed + 10 * row + heard)
                parts.insert(draw.randint(0, len(parts)), Audio((noise[: round(seconds * rate)], rate)))
            turns.append(Message("user", tuple(parts)))
            turns.append(Message("assistant", (" ".join(draw.choices(tiny.DIGITS, k=draw.randint(1, 6))),)))
        conversations.append(turns)
    return batch_of(model, conversations)


def learned(
    make: Callable[[], SpeechLM], batch_seed: int, pack: bool | int, **options: Any
) -> tuple[float, dict[str, Tensor]]:
    """The loss of a training step, and its gradients by name."""
    model = make()
    config = SpeechLMTaskConfig(freeze=("perception.encoder",), pack=pack, **options)
    task = SpeechLMTask(model, OptimConfig(), config)
    task.model.train()
    model.perception.encoder.eval()
    loss = task.losses(ragged(model, batch_seed))["loss"]
    loss.backward()
    return loss.item(), {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def compare(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=LOSS)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(
            other[1][name] / scale, gradient / scale, atol=GRADIENT, rtol=GRADIENT, msg=name
        )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", list(MODELS))
def test_loss_and_gradients_are_those_of_rows_of_their_own(name: str, seed: int) -> None:
    apart = learned(MODELS[name], seed, False)
    for pack in (True, ONE_ROW):
        compare(apart, learned(MODELS[name], seed, pack))


def test_layers_may_be_computed_twice() -> None:
    apart = learned(tiny.salm, 3, False)
    compare(apart, learned(tiny.salm, 3, ONE_ROW, gradient_checkpointing=True))


def test_rows_are_fewer_and_each_token_is_learned_once() -> None:
    model = tiny.salm()
    batch = ragged(model, 0)
    _, apart = model.training_hidden(batch)
    for room, rows in ((1, range(2, len(batch))), (ONE_ROW, range(1, 2))):
        hidden, labels = model.training_hidden(batch, room)
        assert len(labels) in rows
        assert hidden.shape[:2] == labels.shape
        assert sorted(labels[labels != IGNORED].tolist()) == sorted(apart[apart != IGNORED].tolist())


@pytest.mark.parametrize("name", ["salm", "bestow"])
def test_a_conversation_sees_itself_alone(name: str) -> None:
    model = MODELS[name]()
    batch = ragged(model, 0)
    hidden, labels = model.training_hidden(batch, ONE_ROW)
    other = replace(batch, signal=batch.signal.clone())
    other.signal[0] = other.signal[0].flip(0)
    changed, _ = model.training_hidden(other, ONE_ROW)
    ids, _ = model.training_hidden(batch)
    moved = (changed - hidden)[0].abs().amax(-1) > 1e-4
    # The first conversation is the longest and stands first.
    assert moved.any()
    assert not moved[ids.shape[1] :].any()
    assert (labels[0, ids.shape[1] :] != IGNORED).any()


def test_conversations_of_one_length_have_rows_of_their_own_and_no_mask(monkeypatch: Any) -> None:
    model = tiny.salm()
    batch = SpeechLMTask(model, OptimConfig(), SpeechLMTaskConfig()).fabricate(3, 0.4, 6)
    seen: list[Any] = []
    forward = type(model.llm).forward

    def note(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(options.get("segments"))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model.llm), "forward", note)
    assert len(model.training_hidden(batch, 1)[1]) == 3
    assert seen == [None]


def test_only_training_is_packed(monkeypatch: Any) -> None:
    model = tiny.salm()
    task = SpeechLMTask(model, OptimConfig(), SpeechLMTaskConfig(pack=True))
    rooms: list[int | None] = []
    hidden = model.training_hidden

    def note(batch: ConversationBatch, room: int | None = None) -> tuple[Tensor, Tensor]:
        rooms.append(room)
        return hidden(batch, room)

    monkeypatch.setattr(model, "training_hidden", note)
    batch = ragged(model, 0)
    total, count = task._loss(batch)
    assert task.losses(batch)["loss"].item() == pytest.approx((total / count).item(), rel=LOSS)
    assert rooms == [None, 1]


@pytest.mark.parametrize("pack", [False, True, ONE_ROW])
@pytest.mark.parametrize("name", ["salm", "bestow"])
def test_the_padding_that_is_told_is_what_is_computed(name: str, pack: bool | int, monkeypatch: Any) -> None:
    model = MODELS[name]()
    task = SpeechLMTask(model, OptimConfig(), SpeechLMTaskConfig(pack=pack))
    told: dict[str, Any] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **how: told.setdefault(name, value))
    batch = ragged(model, 0)
    task.training_step(batch, 0)
    filled = sum(
        model.positions(ids[:length].tolist(), [len(signal) for signal in signals])
        for ids, length, signals in zip(batch.ids, batch.id_lengths.tolist(), batch.signals())
    )
    computed = model.training_hidden(batch, int(pack) or None)[1].numel()
    assert told["train/padding"] == pytest.approx(1 - filled / computed)
    assert told["train/encoder_padding"] == batch.padding
    # One row for all has no padding, rows of their own have a lot.
    assert (told["train/padding"] == 0.0) == (pack == ONE_ROW)
    assert (told["train/padding"] > 0.3) == (pack is False)


def test_what_data_tell_of_padding_does_not_hide_what_the_task_tells() -> None:
    trainer = SimpleNamespace(datamodule=SimpleNamespace(stats=DataStats(seconds=1.0, padded_seconds=2.0)))
    for task, told in ((SpeechLMTask, {"train/data_wait"}), (Task, {"train/data_wait", "train/padding"})):
        module = Mock(logs_padding=task.logs_padding)
        Shares(1).on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        assert {call.args[0] for call in module.log.call_args_list} == told


def test_models_that_cannot_pack_say_so() -> None:
    recurrent = salm_over("nemotron_h")
    config = SpeechLMTaskConfig(freeze=(), pack=True)
    with pytest.raises(ConfigError, match=r"task\.pack: nemotron_h has recurrent layers.*set it to false"):
        SpeechLMTask(recurrent, OptimConfig(), config)
    with pytest.raises(OptionError, match="nemotron_h has recurrent layers"):
        recurrent.training_hidden(ragged(recurrent, 0), ONE_ROW)
    layered = bestow_tests.bestow(layered=LayeredConfig(n_heads=2))
    with pytest.raises(ConfigError, match=r"task\.pack: a reader before every layer.*set it to false"):
        SpeechLMTask(layered, OptimConfig(), config)
    with pytest.raises(OptionError, match="a reader before every layer"):
        layered.training_hidden(ragged(layered, 0), ONE_ROW)


@pytest.mark.parametrize("value", [0, -1])
def test_a_number_of_positions_is_at_least_one(value: int) -> None:
    with pytest.raises(ConfigError, match=rf"task\.pack is {value}; it must be true, false, or a number"):
        from_dict(SpeechLMTaskConfig, {"pack": value}, "task")


@pytest.mark.parametrize("value", [True, False, 512])
def test_the_option_is_a_switch_or_a_number(value: bool | int) -> None:
    assert from_dict(SpeechLMTaskConfig, {"pack": value}, "task").pack is value
