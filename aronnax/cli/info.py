"""`aronnax info`: what a checkpoint is, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aronnax.cli.commands import Argument, Option
from aronnax.core.errors import AronnaxError

if TYPE_CHECKING:
    from aronnax.core.model import Model
    from aronnax.core.parts import Parts


def info(
    model: Annotated[str, Argument(help="Bundled name, folder, .nemo file or hub id.")],
    config: Annotated[bool, Option("--config", help="Print the whole configuration too.")] = False,
    tensors: Annotated[bool, Option("--tensors", help="List every stored tensor too.")] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe any checkpoint: its format, family, size, vocabulary and whether it loads.

    What does not load is described as far as it can be, and makes the exit status 1.
    """
    from aronnax.core import hub

    path = hub.resolve(model)
    found = _describe(path)
    if json:
        _print_json(found, config, tensors)
    else:
        _print(found, config, tensors)
    if found["facts"]["loads"] != "yes":
        raise SystemExit(1)


def _print(found: dict[str, Any], config: bool, tensors: bool) -> None:
    for key, value in found["facts"].items():
        print(f"{key:<12} {value}")
    for note in found["notes"]:
        print(f"{'note':<12} {note}")
    if config and found["config"]:
        print(f"\n{found['config']}", end="")
    if tensors:
        print()
        for name, (dtype, shape) in found["tensors"].items():
            print(f"{name:<72} {dtype:<9} {'x'.join(map(str, shape))}")


def _describe(path: Path) -> dict[str, Any]:
    """Facts in the order they are printed; a checkpoint that does not load is described as far as it can be."""
    from aronnax.core import registry
    from aronnax.core.checkpoint import describe_types
    from aronnax.core.config import to_yaml
    from aronnax.core.loading import open_parts
    from aronnax.core.parts import assemble

    found: dict[str, Any] = {"facts": {"path": str(path)}, "notes": (), "config": "", "tensors": {}}
    facts: dict[str, str] = found["facts"]
    try:
        parts = open_parts(path)
        facts.update(parts.details)
        found["notes"], found["config"] = parts.notes, to_yaml(parts.config)
        found["tensors"] = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in parts.tensors.items()
        }
        facts["family"] = parts.model_type
        size = sum(tensor.numel() * tensor.element_size() for tensor in parts.tensors.values())
        facts["weights"] = f"{size / 1e6:.1f} MB: {describe_types(parts.tensors)}"
        model = assemble(registry.model_class(parts.model_type), parts)
        facts["parameters"] = f"{model.num_parameters():,}"
        facts.update(_speech_facts(model, parts))
        facts["loads"] = "yes"
    except AronnaxError as error:
        facts.update(_archive_facts(path))
        facts["loads"] = f"no: {error}"
    return found


def _speech_facts(model: Model, parts: Parts) -> dict[str, str]:
    """What a recogniser adds; a model of another kind has none of it."""
    facts = {}
    heads, tokenizer = getattr(model, "heads", None), getattr(model, "tokenizer", None)
    encoder, front = getattr(parts.config, "encoder", None), getattr(parts.config, "preprocessor", None)
    if heads:
        facts["heads"] = ", ".join(heads)
    slots, languages = getattr(model, "slots", ()), getattr(model, "languages", ())
    if slots:
        facts["prompt"] = f"{parts.config.prompt_format}: {', '.join(slots)}"
        facts["tasks"] = "transcribe, translate" if len(languages) > 1 else "transcribe"
    if languages:
        facts["languages"] = ", ".join(languages)
    if tokenizer is not None:
        kind = type(tokenizer).__name__.removesuffix("Tokenizer")
        facts["tokenizer"] = f"{kind}, {tokenizer.vocab_size} pieces"
    if encoder is not None:
        frames = front.hop * encoder.subsampling_factor / front.sample_rate if front is not None else 0
        contexts = ", ".join(f"[{left}, {right}]" for left, right in encoder.att_context_size)
        facts["encoder"] = (
            f"{encoder.n_layers} layers of {encoder.d_model}, {encoder.n_heads} heads, "
            f"attention {encoder.self_attention_model} {contexts}, {1000 * frames:.0f} ms a frame"
        )
    if front is not None:
        facts["front end"] = (
            f"{front.n_mels} mel bands at {front.sample_rate} Hz, normalisation {front.normalize}"
        )
    return facts


def _archive_facts(path: Path) -> dict[str, str]:
    """What the configuration of a NeMo archive says of a family that is not loaded."""
    from aronnax.core import nemo

    try:
        config = nemo.read_config(path)
    except AronnaxError:
        return {}
    return {
        "format": ".nemo",
        "NeMo class": str(config.get("target", "not named")).rpartition(".")[2],
        "written by": f"NeMo {config.get('nemo_version', 'of unknown version')}",
    }


def _print_json(found: dict[str, Any], config: bool, tensors: bool) -> None:
    import json

    data = {key.replace(" ", "_"): value for key, value in found["facts"].items()}
    data["notes"] = list(found["notes"])
    if config:
        data["config"] = found["config"]
    if tensors:
        data["tensors"] = found["tensors"]
    print(json.dumps(data, indent=2, ensure_ascii=False))
