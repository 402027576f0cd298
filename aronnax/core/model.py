"""The one base of every model: an nn.Module built from a typed config, that loads and saves itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from aronnax.core.references import Reference

M = TypeVar("M", bound="Model")


class Model(nn.Module):
    """Mathematics and inference of one system; `Model(config)` builds modules and nothing else."""

    model_type: ClassVar[str]
    """Name in the registry and in `config.yaml`."""
    Config: ClassVar[type]
    """The frozen dataclass this model is built from."""

    source: str | None = None
    """Where the model was loaded from; results carry it as `model`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(cls: type[M], config: Any, assets: Mapping[str, bytes]) -> M:
        """A model with fresh weights from its config and the files stored beside its weights."""
        return cls(config)

    @classmethod
    def references(cls, config: Any) -> Mapping[str, Reference]:
        """Checkpoints that hold what is below a prefix (`llm.`), so that this model need not; by default none."""
        return {}

    def assets(self) -> dict[str, bytes]:
        """The files to store beside the weights (name -> content), such as a tokenizer's."""
        return {}

    @classmethod
    def from_pretrained(
        cls: type[M],
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        weights: str | None = None,
        revision: str | None = None,
    ) -> M:
        """Load a checkpoint of this very class; CheckpointError if it holds another family. See `aronnax.load`."""
        from aronnax.core.loading import load

        model = load(name, device=device, dtype=dtype, weights=weights, revision=revision, expected=cls)
        assert isinstance(model, cls)
        return model

    def save_pretrained(
        self, folder: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
    ) -> Path:
        """Write the checkpoint folder atomically; `dtype` stores floating-point weights in it (e.g. float16)."""
        from aronnax.core.checkpoint import save

        return save(self, Path(folder), card=card, dtype=dtype)

    def save_nemo(self, path: str | Path) -> Path:
        """Write a `.nemo` archive that NeMo restores, atomically."""
        from aronnax.core.nemo import save

        return save(self, Path(path))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def num_parameters(self) -> int:
        """How many trainable numbers the model has."""
        return sum(parameter.numel() for parameter in self.parameters())
