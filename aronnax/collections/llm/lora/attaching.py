"""LoRA adapters put into a backbone, merged into its weights, and taken out again.

    attach(backbone, LoRA(rank=8), name="french")       # now only the adapter learns
    backbone.bind(prompts, lengths, adapter=False)      # this call without it, whatever other calls do
    merge(backbone)                                     # one model again, with the change inside

Several adapters may sit in one backbone by their names; a call picks one with `adapter="french"`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from aronnax.collections.llm.backbone import adapters
from aronnax.collections.llm.lora.config import DEFAULT, LoRA, require_peft
from aronnax.core.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.llm.backbone import Backbone


def attach(backbone: Backbone, lora: LoRA, name: str = DEFAULT) -> None:
    """Put a fresh adapter into the backbone, active and alone in learning; it changes nothing until it is trained.

    Raises:
        OptionError: there is one of that name.
        ConfigError: no layer is called as `target_modules` says.
    """
    peft = require_peft()
    if name in adapters.names(backbone.causal):
        raise OptionError(f"the language model has an adapter {name!r} already: drop it first")
    if "." in name or not name:
        raise OptionError(f"adapter name {name!r} must be a word without dots")
    try:
        peft.inject_adapter_in_model(lora.to_peft(), backbone.causal, adapter_name=name)
    except ValueError as error:
        wanted = ", ".join(lora.target_modules) or "linear layers"
        raise ConfigError(
            f"lora.target_modules: the language model has no {wanted} to change ({error})"
        ) from None
    finally:
        _forget(backbone.causal)
    _activate(backbone.causal, name)
    for key, parameter in backbone.causal.named_parameters():
        parameter.requires_grad_(".lora_" in key and f".{name}." in key)


def adapter_names(backbone: Backbone) -> list[str]:
    """The adapters inside, by name."""
    return adapters.names(backbone.causal)


def adapter_tensors(backbone: Backbone, name: str = DEFAULT) -> dict[str, Tensor]:
    """The tensors of one adapter by the names that a peft file gives them, e.g.
    `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`."""
    _check_known(backbone, name)
    return {
        f"base_model.model.{key.replace(f'.{name}.', '.')}": parameter
        for key, parameter in backbone.causal.named_parameters()
        if f".{name}." in key and ".lora_" in key
    }


def described(backbone: Backbone, name: str = DEFAULT) -> LoRA:
    """The configuration of an adapter inside, its targets and layers by name."""
    _check_known(backbone, name)
    placed = [(path, layer) for path, layer in _layers(backbone.causal) if name in layer.lora_A]
    first: Any = placed[0][1]
    numbers = {int(part) for path, _ in placed for part in path.split(".") if part.isdigit()}
    alpha, rank = float(first.lora_alpha[name]), int(first.r[name])
    return LoRA(
        rank=rank,
        alpha=alpha,
        dropout=float(getattr(first.lora_dropout[name], "p", 0.0)),
        target_modules=tuple(sorted({path.rpartition(".")[2] for path, _ in placed})),
        layers=tuple(sorted(numbers)),
        rslora=not math.isclose(first.scaling[name], alpha / rank),
    )


def activate(backbone: Backbone, name: str) -> None:
    """Make one adapter the one that calls without an `adapter` of their own use."""
    _check_known(backbone, name)
    _activate(backbone.causal, name)


def merge(backbone: Backbone, name: str | None = None) -> None:
    """Add an adapter (or all active ones) to the weights and take every adapter out.

    What the model computes stays the same but for rounding.
    """
    if name is not None:
        _check_known(backbone, name)
    for path, layer in _layers(backbone.causal):
        chosen = layer.active_adapters if name is None else [name]
        layer.merge(adapter_names=[one for one in chosen if one in layer.lora_A])
        _replace(backbone.causal, path, layer.get_base_layer())


def drop(backbone: Backbone, name: str | None = None) -> None:
    """Take one adapter out, or all; with the last one gone the model is, bit by bit, the one it was before."""
    if name is not None:
        _check_known(backbone, name)
    for path, layer in _layers(backbone.causal):
        if name is not None:
            layer.delete_adapter(name)
        if name is None or not layer.lora_A:
            _replace(backbone.causal, path, layer.get_base_layer())


def base_name(name: str) -> str:
    """The name that a plain model gives a tensor of a model with adapters."""
    return name.replace(".base_layer.", ".")


def adapted_name(backbone: Backbone, name: str) -> str:
    """The inverse of `base_name`, below `causal.`: the name that the backbone's own tensor has."""
    path, _, leaf = name.rpartition(".")
    return f"{path}.base_layer.{leaf}" if path in {place for place, _ in _layers(backbone)} else name


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    return [(path, part) for path, part in module.named_modules() if adapters.is_lora(part)]


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part)


def _activate(module: nn.Module, name: str) -> None:
    for _, layer in _layers(module):
        layer.set_adapter([name] if name in layer.lora_A else [])


def _forget(module: nn.Module) -> None:
    """Take away the configuration that peft notes at the model, which its own loader would trip over."""
    cast(Any, module).__dict__.pop("peft_config", None)


def _check_known(backbone: Backbone, name: str) -> None:
    known = adapter_names(backbone)
    if name not in known:
        listed = f"it has {', '.join(known)}" if known else "it has none"
        raise OptionError(f"the language model has no adapter {name!r}: {listed}")
