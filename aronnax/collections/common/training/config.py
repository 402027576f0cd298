"""How a training runs: steps, precision, devices, checkpoints and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aronnax.core.errors import ConfigError

Logger = Literal["tensorboard", "wandb", "csv"]


@dataclass(frozen=True)
class TrainerConfig:
    """The `trainer` section of a training configuration; every interval is in optimizer steps."""

    max_steps: int = 10_000
    val_every: int = 1000
    """Validation interval; the set is also scored before the first step and after the last."""
    val_batches: int | None = None
    """Validate on this many batches at most; None for all."""
    checkpoint_every: int = 500
    """Interval of `last.ckpt`, from which a killed run goes on."""
    monitor: str = "val/wer"
    """The validation number whose lowest value decides which weights are kept in `best/`."""
    log_every: int = 10
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"
    """Processes on this machine: one a GPU, or on the CPU this many processes (`auto` is 1 there)."""
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """With several processes: `ddp` gives each a whole model, `fsdp2` shares the weights out among them, which speech
    language models can have done."""
    accumulate: int = 1
    """Batches whose gradients are summed into one optimizer step."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is validated and saved."""
    sync_batchnorm: bool = False
    """Share batch-norm statistics between processes."""
    seed: int = 0
    resume: str = "auto"
    """`auto`: go on from the output folder's `last.ckpt` if there is one; `never`; or the path of a .ckpt."""
    loggers: tuple[Logger, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name in ("max_steps", "val_every", "checkpoint_every", "log_every", "accumulate", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name} is {getattr(self, name)}; it must be at least 1")
        if self.clip < 0:
            raise ConfigError(f"trainer.clip is {self.clip}; it must be 0 (no clipping) or more")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"trainer.ema is {self.ema}; a decay lies between 0 and 1, e.g. 0.999")
        if self.ema is not None and self.strategy == "fsdp2":
            raise ConfigError(
                "trainer.ema averages whole models, and fsdp2 shares them out: leave one of them out"
            )
