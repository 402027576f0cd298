"""A speech language model whose weights are shared out over processes (FSDP2), and whole again for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from aronnax.collections.common.nn.derived import forget_derived

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from aronnax.collections.speechlm.model import SpeechLM


def shard(model: SpeechLM, mesh: DeviceMesh) -> None:
    """Shares the weights out over the processes of `mesh`: layer by layer, and what is left in one piece.

    What is left (embeddings, norms, projections) is whole from the beginning of `training_hidden` to the end of the
    backward pass, so that scores may be computed in between.
    """
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "training_hidden")


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Every process holds all the weights inside the block, as decoding needs them; nothing is learned there."""
    units = [part for part in model.modules() if isinstance(part, FSDPModule)]
    forget_derived(model)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)
            unit.reshard()
        forget_derived(model)


def _layers(model: SpeechLM) -> list[nn.Module]:
    """The layers of the language model, of the encoder and of a Conformer adapter."""
    causal = cast(Any, model.llm.causal)
    kinds = set(causal._no_split_modules or ())
    found: list[nn.Module] = [part for part in causal.modules() if type(part).__name__ in kinds]
    for part in (model.perception.encoder, model.perception.modality_adapter):
        found += list(cast(Any, part).layers) if hasattr(part, "layers") else []
    return found
