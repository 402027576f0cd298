"""A tiny model trains on one thread, and the user is told."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from aronnax.collections.common.training.run import _spare_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def spare(parameters: int, device: str = "cpu") -> list[str]:
    model: Any = nn.Linear(1, 1)
    model.num_parameters = lambda: parameters
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    said: list[str] = []
    _spare_threads(model, trainer, said.append)
    return said


def test_a_tiny_model_gets_one_thread() -> None:
    (line,) = spare(1_000_000)
    assert "one thread" in line
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("parameters", "device"), [(10_000_000, "cpu"), (1_000_000, "cuda")])
def test_others_keep_their_threads(parameters: int, device: str) -> None:
    assert spare(parameters, device) == []
    assert torch.get_num_threads() == 2


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert spare(1_000_000) == []
    assert torch.get_num_threads() == 2
