"""The state of an optimizer by the names of parameters, so that a run goes on under any strategy.

PyTorch numbers parameters in the order of the optimizer's groups, FSDP2 in the order of the model; names are the same
everywhere, and an optimizer takes them in place of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aronnax.core.errors import CheckpointError


def keyed_by_name(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, module: nn.Module
) -> dict[str, Any]:
    """The `state_dict` of an optimizer with the names that its parameters have in `module` for numbers.

    Parameters that have not learned yet get a state of zeros, which is what they would begin with: FSDP2 asks for
    all of them.
    """
    names = _names(module)
    called: dict[Any, str] = {}
    groups = []
    for saved, own in zip(state["param_groups"], optimizer.param_groups):
        called |= {key: names[parameter] for key, parameter in zip(saved["params"], own["params"])}
        groups.append({**saved, "params": [called[key] for key in saved["params"]]})
    states = {called[key]: value for key, value in state["state"].items()}
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    like = next((states[names[one]] for one in learning if one.ndim and names[one] in states), None)
    if like is not None:
        for parameter in learning:
            states.setdefault(names[parameter], _fresh(like, parameter))
    return {**state, "state": states, "param_groups": groups}


def check_names(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """CheckpointError unless the state is about the very parameters of the optimizer; one by number passes."""
    names = _names(module)
    saved = [name for group in state["param_groups"] for name in group["params"]]
    own = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    if saved == own or not all(isinstance(name, str) for name in saved):
        return
    strange = sorted(set(saved) ^ set(own)) or own
    raise CheckpointError(
        f"the checkpoint to go on from was of a run in which other parameters learned, or at other rates "
        f"({strange[0].removeprefix('model.')} among them): keep task and optim as they were, or begin another run "
        "from its model/ with init_from"
    )


def _names(module: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


def _fresh(like: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """What a parameter's state begins with, where that of another one is `like`."""
    return {
        name: torch.zeros(parameter.shape if value.ndim else (), dtype=value.dtype)
        for name, value in like.items()
        if isinstance(value, Tensor)
    }
