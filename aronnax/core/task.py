"""The training half of a model: a Lightning module that has a Model and knows its loss and optimizer.

Imported only to train: Lightning takes seconds to import and inference never needs it.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from aronnax.core.errors import ConfigError
from aronnax.core.model import Model
from aronnax.core.optimizer_states import check_names, keyed_by_name
from aronnax.core.parts import Parts, assemble


class OptimizerBuilder(Protocol):
    """What a task needs of an optimizer config."""

    @property
    def first_steps(self) -> Mapping[str, int]:
        """Part of the model -> optimizer step at which it starts to learn."""

    def rests(self, name: str, step: int) -> bool:
        """Whether the parameter of that name does not learn yet at that optimizer step."""

    def build(
        self, module: nn.Module, total_steps: int | None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Returns the optimizer and its per-step scheduler."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed that depends on these three alone, so that a resumed step draws what it would have drawn."""
    return zlib.crc32(f"{seed}/{step}/{rank}".encode())


class Task(LightningModule):
    """Trains a Model; a subclass says what the losses of a batch are.

    Every training batch starts from a seed made of (seed, batch number, rank): dropout and masking are the
    same whether the run was interrupted or not. Parts that are frozen, or rest until their first step, stay
    in eval mode, so that their batch-norm statistics and dropout rest as well. An update with a non-finite
    gradient is dropped and counted in `train/dropped_updates`.
    """

    shortest_seconds: ClassVar[float] = 0.0
    """Shorter recordings cost as much as one of this length."""
    logs_padding: ClassVar[bool] = False
    """Whether it logs `train/padding` itself, because what it computes is not padded as the data are."""

    def __init__(self, model: Model, optim: OptimizerBuilder, *, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.seed = seed
        self._dropped_updates = 0
        self._sharded = False

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Returns the scalar losses of a batch by name; `loss` is the one to minimise."""

    @abstractmethod
    def batch_size(self, batch: Any) -> int:
        """Returns the number of examples in a batch."""

    @abstractmethod
    def fabricate(self, batch_size: int, seconds: float, tokens: int) -> Any:
        """Returns a batch of random content for the batch-size finder: `batch_size` examples of exactly that length.

        It must be of the type, and cost as much, as the largest batch a bucket of those limits can give.
        """

    def summary(self) -> list[str]:
        """Lines about the last validation that a user reads at the end of a run, beside the logged numbers."""
        return []

    def shard(self, mesh: Any) -> None:
        """Shares the weights out over the processes of a mesh (FSDP2); tasks that can do it say how."""
        raise ConfigError(
            f"trainer.strategy is fsdp2, and a {self.model.model_type} model cannot be shared out: take ddp"
        )

    def configure_model(self) -> None:
        """Shares the weights out, once, where the strategy asks for it."""
        mesh = self.device_mesh
        if mesh is not None and not self._sharded:
            self.shard(mesh["data_parallel"])
            self._sharded = True

    def whole_model(self) -> Model:
        """The model with all its weights, to be saved: every process must ask, and the first one gets it."""
        if not self._sharded:
            return self.model
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_model_state_dict(self.model, options=options)
        if not state:
            return self.model
        model = self.model
        parts = Parts("the trained model", model.model_type, model.config, model.assets(), state)
        return assemble(type(model), parts, model.dtype)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Computes and logs the losses of one batch."""
        losses = self.losses(batch)
        size = self.batch_size(batch)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=size)
        return losses["loss"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds the optimizer over the trainable parameters of the model, stepped once an update."""
        steps = self.trainer.max_steps if self.trainer.max_steps > 0 else None
        optimizer, scheduler = self.optim.build(self.model, steps)
        optimizer.register_load_state_dict_pre_hook(lambda own, state: check_names(state, own, self))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Has the optimizer's state name its parameters: under another strategy they have other numbers."""
        states = checkpoint.get("optimizer_states", [])
        for place, (state, optimizer) in enumerate(zip(states, self.trainer.optimizers)):
            if state:  # with weights shared out, the first process alone has it
                states[place] = keyed_by_name(state, optimizer, self)

    def on_train_start(self) -> None:
        """Puts frozen and resting parts in eval mode."""
        self._set_modes()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds the batch, and wakes the parts whose first step has come."""
        torch.manual_seed(step_seed(self.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank))
        if self.global_step in self.optim.first_steps.values():
            self._set_modes()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient's norm, logs it, and drops an update whose gradient is not finite."""
        for name, parameter in self.model.named_parameters():
            if self.optim.rests(name, self.global_step):
                parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]],
            gradient_clip_val if gradient_clip_val else float("inf"),
        )
        norm = getattr(norm, "full_tensor", lambda: norm)()
        self.log("train/gradient_norm", norm)
        if not torch.isfinite(norm):
            # A loss scaler (16-mixed) skips the step itself and must still see the gradients.
            if self.trainer.scaler is None:
                optimizer.zero_grad(set_to_none=True)
            self._dropped_updates += 1
        self.log("train/dropped_updates", float(self._dropped_updates))

    def _set_modes(self) -> None:
        """Training mode everywhere but in the parts none of whose parameters learn at this step."""
        self.model.train()
        step = self.global_step
        learning = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not self.optim.rests(name, step)
        ]
        for name, module in self.model.named_modules():
            prefix = name + "." if name else ""
            has_parameters = next(module.parameters(), None) is not None
            if has_parameters and not any(parameter.startswith(prefix) for parameter in learning):
                module.eval()
