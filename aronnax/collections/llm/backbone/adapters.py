"""LoRA layers of peft inside a model: one call's choice among them, made without touching the model.

A choice is a second tree of modules over the same parameters, in which a LoRA layer is replaced by its base layer or
by a copy with another adapter active. It costs no memory to speak of, and calls in other threads do not notice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from copy import copy
from typing import Any, cast

from torch import nn

from aronnax.core.errors import OptionError

Adapter = str | bool | None
"""A name; False for none at all; None for whichever are active in the model."""


def is_lora(module: nn.Module) -> bool:
    """Whether this is a LoRA layer of peft's (told by its parts, for peft may not be installed)."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def lora_layers(module: nn.Module) -> Iterator[Any]:
    """All LoRA layers inside."""
    return (part for part in module.modules() if is_lora(part))


def names(module: nn.Module) -> list[str]:
    """Names of the adapters inside."""
    return sorted({name for layer in lora_layers(module) for name in layer.lora_A})


def choose(module: nn.Module, adapter: Adapter) -> nn.Module:
    """The model with this choice.

    Raises OptionError for an adapter it has not, or if adapters are to be left out that are merged into the weights.
    """
    if adapter is None:
        return module
    if adapter is True:
        raise OptionError(
            "adapter is True: give an adapter's name, False for none, or None for the active ones"
        )
    known = names(module)
    if isinstance(adapter, str) and adapter not in known:
        listed = f"it has {', '.join(known)}" if known else "it has none"
        raise OptionError(f"the language model has no adapter {adapter!r}: {listed}")
    if any(layer.merged for layer in lora_layers(module)):
        raise OptionError(
            "adapters are merged into the weights and cannot be chosen for a call: unmerge them"
        )
    return _chosen(module, adapter)


def _chosen(module: nn.Module, adapter: str | bool) -> nn.Module:
    if is_lora(module):
        if adapter is False:
            return cast(nn.Module, module.base_layer)
        active: Any = copy(module)
        active._active_adapter, active._disable_adapters = [adapter], False
        return cast(nn.Module, active)
    parts = {name: None if part is None else _chosen(part, adapter) for name, part in module._modules.items()}
    if all(part is module._modules[name] for name, part in parts.items()):
        return module
    other = copy(module)
    other._modules = parts
    return other


def state(module: nn.Module) -> Hashable:
    """What decides the output besides the parameters: which adapters are active, merged, and how strong."""
    return tuple(
        (layer.disable_adapters, *layer.active_adapters, *layer.merged_adapters, *layer.scaling.items())
        for layer in lora_layers(module)
    )
