"""Adapters in small folders beside a reference to their base, in the layout of peft with one file more.

`adapter_config.json` and `adapter_model.safetensors` are peft's; `adapter.yaml` names the base and holds a few of its
weights, by which a model is recognised as that base or refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aronnax.collections.llm.lora import attaching
from aronnax.collections.llm.lora.config import DEFAULT, LoRA
from aronnax.core.checkpoint import read_safetensors
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.files import write_synced
from aronnax.core.safe_yaml import dump_yaml, parse_mapping

if TYPE_CHECKING:
    from aronnax.collections.llm.backbone import Backbone

CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "adapter.yaml"
_SAMPLES = 64
# What rounding a weight to bfloat16 changes it by, at most.
_ROUNDING = 2.0**-8


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter's folder, read."""

    lora: LoRA
    base: str | None
    """The name of the model it was made for, if the folder says so."""
    tensors: dict[str, Tensor]
    """By peft's names."""
    samples: dict[str, list[float]]
    """Some weights of the base, by the names of its tensors; empty in a folder of peft's own."""


def save_adapter(
    backbone: Backbone, folder: str | Path, name: str = DEFAULT, *, base: str | None = None
) -> Path:
    """Write one adapter into `folder`; `base` is the name under which its model is loaded.

    peft reads the folder as well. Raises OptionError for an adapter that is not there.
    """
    from safetensors.torch import save

    lora = attaching.described(backbone, name)
    tensors = attaching.adapter_tensors(backbone, name)
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_modules),
        "layers_to_transform": list(lora.layers) or None,
        "use_rslora": lora.rslora,
        "bias": "none",
        "inference_mode": True,
    }
    about = {"base": base, "samples": _samples(backbone, tensors)}
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    write_synced(out / WEIGHTS, save(stored, metadata={"format": "pt"}))
    write_synced(out / CONFIG, (json.dumps(plain, indent=1) + "\n").encode())
    write_synced(out / ABOUT, dump_yaml(about).encode())
    return out


def read_adapter(folder: str | Path) -> SavedAdapter:
    """Open an adapter's folder, ours or peft's.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: it is another kind of adapter.
    """
    place = Path(folder)
    if not (place / CONFIG).is_file():
        raise CheckpointError(f"{place} has no {CONFIG}: it is not the folder of a LoRA adapter")
    try:
        plain = json.loads((place / CONFIG).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{place / CONFIG} is not valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise CheckpointError(f"{place / CONFIG} must hold a mapping")
    about: dict[str, Any] = {}
    if (place / ABOUT).is_file():
        about = parse_mapping((place / ABOUT).read_bytes(), str(place / ABOUT))
    tensors, _ = read_safetensors(place / WEIGHTS)
    base = about.get("base", plain.get("base_model_name_or_path"))
    return SavedAdapter(LoRA.from_peft(plain, str(place / CONFIG)), base, tensors, about.get("samples") or {})


def load_adapter(backbone: Backbone, folder: str | Path, name: str = DEFAULT) -> SavedAdapter:
    """Put a saved adapter into the backbone under `name`, active and frozen.

    Raises:
        CheckpointError: the adapter belongs to another base model, or a file is damaged.
        OptionError: there is an adapter of that name already.
    """
    saved = read_adapter(folder)
    _check_base(backbone, saved, str(folder))
    try:
        attaching.attach(backbone, saved.lora, name)
    except ConfigError as error:
        raise CheckpointError(_foreign(saved, str(folder), str(error))) from None
    own = attaching.adapter_tensors(backbone, name)
    problem = _unlike(own, saved.tensors)
    if problem:
        attaching.drop(backbone, name)
        raise CheckpointError(_foreign(saved, str(folder), problem))
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(saved.tensors[key])
            tensor.requires_grad_(False)
    return saved


def _samples(backbone: Backbone, tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """Weights of the first and the last layer that the adapter changes, taken at even distances."""
    changed = sorted({key.rpartition(".lora_")[0].removeprefix("base_model.model.") for key in tensors})
    return {f"{path}.weight": _values(backbone, path) for path in (changed[0], changed[-1])}


def _values(backbone: Backbone, path: str) -> list[float]:
    layer: Any = backbone.causal.get_submodule(path)
    weight = getattr(layer, "base_layer", layer).weight.detach().flatten()
    places = torch.linspace(0, weight.numel() - 1, min(_SAMPLES, weight.numel())).long()
    return [float(value) for value in weight[places.to(weight.device)].float().cpu()]


def _check_base(backbone: Backbone, saved: SavedAdapter, where: str) -> None:
    for key, values in saved.samples.items():
        path = key.removesuffix(".weight")
        try:
            own = torch.tensor(_values(backbone, path))
        except AttributeError:
            raise CheckpointError(_foreign(saved, where, f"there is no layer {path}")) from None
        stored = torch.tensor(values)
        near = own.shape == stored.shape and torch.allclose(own, stored, rtol=_ROUNDING, atol=1e-6)
        if not near:
            raise CheckpointError(_foreign(saved, where, f"the weights of {path} differ"))


def _unlike(own: dict[str, Tensor], stored: dict[str, Tensor]) -> str | None:
    """What does not fit between an adapter's places and a file's tensors."""
    for key in sorted({*own, *stored}):
        if key not in stored:
            return f"the file has no {key}"
        if key not in own:
            return f"there is no layer for {key}"
        if own[key].shape != stored[key].shape:
            mine, theirs = ("x".join(map(str, one.shape)) for one in (own[key], stored[key]))
            return f"{key} is {theirs} in the file and {mine} here"
    return None


def _foreign(saved: SavedAdapter, where: str, reason: str) -> str:
    made_for = f"was made for {saved.base}" if saved.base else "was made for another model"
    return f"the adapter in {where} {made_for}, and this language model is not that one: {reason}"
