"""Changing a trained recogniser before it learns on: vocabulary, options, heads, frozen parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.optim import check_prefixes, under
from aronnax.collections.common.text import Tokenizer
from aronnax.core.config import from_dict, to_dict
from aronnax.core.errors import ConfigError
from aronnax.core.registry import model_class

# Where a head's tensors go when a model changes its type; all other names are the same in every type.
_MOVED = {
    ("ctc", "hybrid"): ("decoder.", "ctc_decoder."),
    ("hybrid", "ctc"): ("ctc_decoder.", "decoder."),
}


@dataclass(frozen=True)
class PartReport:
    """How much of one part of a model learns."""

    name: str
    trainable: int
    total: int

    def __str__(self) -> str:
        return f"{self.name}: {self.trainable:,} of {self.total:,} parameters learn"


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Stops the parameters under the dotted prefixes, or matching the `*` patterns, from learning.

    Returns the names of the frozen parameters; raises ConfigError for a pattern that matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        if "*" in pattern or "?" in pattern:
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                raise ConfigError(f"task.freeze: no parameter of the model matches {pattern!r}")
        else:
            check_prefixes([pattern], names, "task.freeze")
            found = [name for name in names if under(name, pattern)]
        frozen.update(found)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return sorted(frozen)


def take_parts(model: SpeechRecognizer, sources: Mapping[str, str]) -> list[str]:
    """Starts parts of a model from checkpoints: `{"encoder": "digits"}` takes that model's `encoder`.

    A part is a dotted prefix that both have, and every weight under it must fit; returns a line for each part that
    says what was taken. Raises ConfigError for a part one of them lacks, or for weights of another shape.
    """
    from aronnax.core.loading import load

    lines, loaded = [], {}
    own = model.state_dict()
    for part, name in sources.items():
        check_prefixes([part], own, "init_from")
        if name not in loaded:
            loaded[name] = load(name, device="cpu")
        other = loaded[name]
        theirs = {key: tensor for key, tensor in other.state_dict().items() if under(key, part)}
        if not theirs:
            raise ConfigError(f"init_from.{part}: {name} is a {other.model_type} model without that part")
        wanted = {key: tensor for key, tensor in own.items() if under(key, part)}
        for key, tensor in wanted.items():
            if key not in theirs or theirs[key].shape != tensor.shape:
                has = f"has {list(theirs[key].shape)}" if key in theirs else "does not have it"
                raise ConfigError(
                    f"init_from.{part}: {key} is {list(tensor.shape)} here, and {name} {has}; give the model the "
                    f"options of {name} (`aronnax info {name}` shows them)"
                )
            tensor.copy_(theirs[key])
        left = len(theirs) - len(wanted)
        parameters = sum(tensor.numel() for tensor in wanted.values())
        rest = f"; {left} tensors of it have no place here" if left else ""
        lines.append(f"{part}: {parameters:,} values in {len(wanted)} tensors taken from {name}{rest}")
        front = _front_end_difference(model, other) if part == "encoder" else None
        if front:
            lines.append(f"{part}: note that the front ends differ ({front}), so it hears something else")
    return lines


def _front_end_difference(model: SpeechRecognizer, other: Any) -> str | None:
    mine, theirs = to_dict(model.config.preprocessor), to_dict(other.config.preprocessor)
    differing = [f"{key} {mine[key]} here, {theirs[key]} there" for key in mine if mine[key] != theirs[key]]
    return ", ".join(differing) or None


def trainable_parts(model: nn.Module) -> list[PartReport]:
    """What learns, part by part (the model's direct children that have parameters), and in all."""
    rows = []
    for name, child in [*model.named_children(), ("in all", model)]:
        sizes = [(p.numel(), p.requires_grad) for p in child.parameters()]
        if sizes:
            rows.append(PartReport(name, sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes)))
    return rows


def replace_tokenizer(model: SpeechRecognizer, tokenizer: Tokenizer) -> SpeechRecognizer:
    """A model for another tokenizer: rows of the pieces are fresh, everything else is kept.

    Kept are the front end, the encoder, the prediction network's recurrent part, the joint's hidden layers,
    and the rows of the blank and of the TDT durations.
    """
    return _with_vocabulary(model, tokenizer, [-1] * tokenizer.vocab_size, fresh_is_mean=False)


def extend_tokenizer(
    model: SpeechRecognizer, tokenizer: Tokenizer, kept_rows: Sequence[int]
) -> SpeechRecognizer:
    """A model for an extended tokenizer: piece i takes the old row `kept_rows[i]`, or a new one for -1.

    `tokenizer` and `kept_rows` come from `aronnax.collections.common.text.extend`. Kept rows are bitwise the
    old ones in every head and in the embedding. A new row is the mean of the old pieces' rows, so that its
    logit is their mean logit and greedy decoding says what it said before, until training changes it.
    """
    if len(kept_rows) != tokenizer.vocab_size:
        raise ConfigError(f"kept_rows has {len(kept_rows)} entries for {tokenizer.vocab_size} pieces")
    return _with_vocabulary(model, tokenizer, kept_rows, fresh_is_mean=True)


def adapt(
    model: SpeechRecognizer, changes: Mapping[str, Any], model_type: str | None = None
) -> SpeechRecognizer:
    """A model with some options changed, and perhaps of another type, that keeps every weight it can.

    `changes` is a (nested) part of the model's config, such as `{"spec_augment": {"time_masks": 10}}`; an
    option that changes the shape of a kept weight is a ConfigError. Between types, the shared parts and the
    heads both have are kept, and a head the old model lacks starts fresh.
    """
    kind = model_type or model.model_type
    cls: Any = model_class(kind)
    known = to_dict(model.config)
    if kind != model.model_type:
        defaults = set(cls.Config.__dataclass_fields__)
        known = {name: value for name, value in known.items() if name in defaults}
    elif not changes:
        return model
    config = from_dict(cls.Config, _merged(known, changes), "model")
    if config == model.config and kind == model.model_type:
        return model
    same = kind == model.model_type
    adapted = model.renewed(config, model.tokenizer) if same else cls(config, model.tokenizer)
    old_prefix, new_prefix = _MOVED.get((model.model_type, kind), ("", ""))
    state = {}
    for name, tensor in model.state_dict().items():
        if old_prefix and name.startswith(old_prefix):
            state[new_prefix + name.removeprefix(old_prefix)] = tensor
        elif not (new_prefix and name.startswith(new_prefix)):
            state[name] = tensor
    _assign(adapted, state, complete=same)
    adapted.source = model.source
    return adapted


def _assign(model: SpeechRecognizer, state: Mapping[str, Tensor], *, complete: bool) -> None:
    """Copies the weights both have; `complete` asks that no weight is new, and that none is lost.

    The tables of the front end are what its options make them.
    """
    own = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith("preprocessor.")
    }
    lost = next((name for name in state if name not in own and not name.startswith("preprocessor.")), None)
    if lost is not None and complete:
        raise ConfigError(f"model: with these options {lost} would be lost; leave the options that drop it")
    for name, tensor in own.items():
        if name not in state and complete:
            raise ConfigError(f"model: with these options {name} would be new; leave the options that add it")
        if name in state and state[name].shape != tensor.shape:
            raise ConfigError(
                f"model: with these options {name} would be {list(tensor.shape)}, but the checkpoint has "
                f"{list(state[name].shape)}; leave the options that shape it as they are"
            )
        if name in state:
            tensor.copy_(state[name])


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _with_vocabulary(
    model: SpeechRecognizer, tokenizer: Tokenizer, rows: Sequence[int], *, fresh_is_mean: bool
) -> SpeechRecognizer:
    old_size = model.config.vocab_size
    grown = model.renewed(replace(model.config, vocab_size=tokenizer.vocab_size), tokenizer)
    state, old = grown.state_dict(), model.state_dict()
    kept = [(new, row) for new, row in enumerate(rows) if row >= 0]
    new_index = torch.tensor([new for new, _ in kept], dtype=torch.long)
    old_index = torch.tensor([row for _, row in kept], dtype=torch.long)
    by_vocabulary = _vocabulary_tensors(model)
    for name, tensor in state.items():
        source = old[name]
        if name not in by_vocabulary:
            tensor.copy_(source)
            continue
        if fresh_is_mean:
            tensor[: len(rows)] = source[:old_size].mean(dim=0)
        tensor[new_index] = source[old_index]
        # The blank and the durations; rows that only round the number up are not worth keeping.
        if len(tensor) - len(rows) == len(source) - old_size:
            tensor[len(rows) :] = source[old_size:]
    grown.source = model.source
    return grown.train(model.training)


def _vocabulary_tensors(model: SpeechRecognizer) -> set[str]:
    """Names of the tensors with a row a piece: those whose shape follows the vocabulary's size."""
    cls: Any = type(model)
    with torch.device("meta"):
        # Eight more, since some models round the number of their outputs up.
        other = cls(replace(model.config, vocab_size=model.config.vocab_size + 8))
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {name for name, tensor in model.state_dict().items() if tensor.shape != shapes[name]}
