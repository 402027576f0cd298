"""An optimizer's state by name is taken by any optimizer of the same parameters."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from aronnax.core.errors import CheckpointError
from aronnax.core.optimizer_states import check_names, keyed_by_name


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def optimizer_of(module: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    """Matrices and other weights apart, so that numbers do not follow the order of the module."""
    parameters = list(module.parameters())
    groups = [[one for one in parameters if (one.ndim > 1) is matrix] for matrix in (True, False)]
    made = torch.optim.AdamW([{"params": group} for group in groups], lr=rate)
    made.register_load_state_dict_pre_hook(lambda own, state: check_names(state, own, module))
    return made


def step(module: nn.Module, optimizer: torch.optim.Optimizer, resting: str = "-") -> None:
    module(torch.linspace(-1, 1, 12).view(4, 3)).square().sum().backward()
    for name, parameter in module.named_parameters():
        if name.startswith(resting):
            parameter.grad = None
    optimizer.step()
    optimizer.zero_grad()


def trained(resting: str = "-") -> tuple[nn.Module, torch.optim.Optimizer]:
    module = network()
    optimizer = optimizer_of(module)
    for _ in range(3):
        step(module, optimizer, resting)
    return module, optimizer


def gone_on(module: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Another module with the same weights, two steps on with that state."""
    other = network()
    other.load_state_dict(module.state_dict())
    optimizer = optimizer_of(other)
    optimizer.load_state_dict(deepcopy(state))
    for _ in range(2):
        step(other, optimizer)
    return other


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values())
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by number, as once saved"])
def test_a_run_goes_on_as_if_it_had_not_stopped(named: bool) -> None:
    module, optimizer = trained()
    state = optimizer.state_dict()
    other = gone_on(module, keyed_by_name(state, optimizer, module) if named else state)
    for _ in range(2):
        step(module, optimizer)
    assert same(module, other)


def test_states_are_under_the_names_of_their_parameters() -> None:
    module, optimizer = trained()
    named = keyed_by_name(optimizer.state_dict(), optimizer, module)
    for name, parameter in module.named_parameters():
        assert torch.equal(named["state"][name]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert named["param_groups"][0]["params"] == ["0.weight", "2.weight"]


def test_what_has_not_learned_yet_begins_with_the_state_it_would_have_begun_with() -> None:
    module, optimizer = trained(resting="2.")
    state = optimizer.state_dict()
    named = keyed_by_name(state, optimizer, module)
    assert named["state"].keys() == {name for name, _ in module.named_parameters()}
    assert len(state["state"]) < len(named["state"])
    assert same(gone_on(module, named), gone_on(module, state))


def test_a_state_of_other_parameters_is_refused_by_name() -> None:
    module, optimizer = trained()
    named = keyed_by_name(optimizer.state_dict(), optimizer, module)
    module[2].weight.requires_grad_(False)
    fewer = torch.optim.AdamW([one for one in module.parameters() if one.requires_grad])
    with pytest.raises(CheckpointError, match=r"other parameters learned.*2\.weight"):
        check_names(named, fewer, module)
