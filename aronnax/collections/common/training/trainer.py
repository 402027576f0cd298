"""A Lightning Trainer from a `TrainerConfig`, and where a killed run goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from aronnax.collections.common.training.callbacks import Lines, Shares
from aronnax.collections.common.training.checkpoints import Best, Last
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.core.errors import ConfigError

LAST = "last.ckpt"


def build_trainer(config: TrainerConfig, output: Path, hyperparameters: Mapping[str, Any]) -> Trainer:
    """Returns the trainer that writes its checkpoints and logs below `output`; ConfigError for what is not there."""
    drawn = sys.stderr.isatty()
    callbacks: list[Callback] = [
        Best(output / "best", config.monitor),
        Shares(config.log_every),
        TQDMProgressBar(refresh_rate=config.log_every) if drawn else Lines(config.log_every),
    ]
    loggers = [_logger(name, output, hyperparameters) for name in config.loggers]
    if loggers:
        callbacks.append(LearningRateMonitor("step"))
    if config.ema is not None:
        callbacks.append(_averaging(config.ema))
    callbacks.append(Last(output / LAST, config.checkpoint_every))
    try:
        return Trainer(
            max_steps=config.max_steps,
            max_epochs=-1,
            val_check_interval=config.val_every * config.accumulate,
            check_val_every_n_epoch=None,
            limit_val_batches=config.val_batches,
            num_sanity_val_steps=0,
            precision=config.precision,
            accelerator=config.accelerator,
            devices=_devices(config),
            num_nodes=config.nodes,
            strategy=_strategy(config),
            # Weights that are shared out are put together during validation, and must be learned on afterwards.
            inference_mode=config.strategy != "fsdp2",
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip or None,
            sync_batchnorm=config.sync_batchnorm,
            log_every_n_steps=config.log_every,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=drawn,
            enable_checkpointing=False,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=output,
        )
    except MisconfigurationException as error:
        asked = f"accelerator {config.accelerator}, devices {config.devices}, strategy {config.strategy}"
        raise ConfigError(f"trainer ({asked}): {str(error).strip().rstrip('.')}") from None


def checkpoint_to_resume(config: TrainerConfig, output: Path) -> Path | None:
    """The checkpoint to go on from: the output folder's own, the one `trainer.resume` names, or none."""
    if config.resume == "never":
        return None
    if config.resume == "auto":
        last = output / LAST
        return last if last.is_file() else None
    path = Path(config.resume)
    if not path.is_file():
        raise ConfigError(
            f"trainer.resume is {config.resume!r}, which is no file; it is auto, never or a .ckpt"
        )
    return path


def _strategy(config: TrainerConfig) -> str | Strategy:
    if config.strategy != "fsdp2":
        return config.strategy
    devices = _devices(config)
    here = torch.cuda.device_count() if devices == "auto" else int(devices)
    return ModelParallelStrategy(here * config.nodes, 1, save_distributed_checkpoint=False)


def _devices(config: TrainerConfig) -> int | str:
    if config.devices == "auto" and (config.accelerator == "cpu" or not torch.cuda.is_available()):
        return 1
    return config.devices


def _logger(name: str, output: Path, hyperparameters: Mapping[str, Any]) -> Logger:
    from lightning.pytorch import loggers

    logger: Logger
    try:
        if name == "csv":
            logger = loggers.CSVLogger(str(output), name="logs")
        elif name == "tensorboard":
            logger = loggers.TensorBoardLogger(str(output), name="logs", version="")
        else:
            logger = loggers.WandbLogger(name=output.name, save_dir=str(output), project="aronnax")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"trainer.loggers names {name}, which is not installed: pip install {name}"
        ) from error
    logger.log_hyperparams(dict(hyperparameters))
    return logger


def _averaging(decay: float) -> Callback:
    try:
        from aronnax.collections.common.training.averaging import Averaging
    except ImportError as error:
        raise ConfigError("trainer.ema needs Lightning 2.6 or newer: pip install -U lightning") from error
    averaging: Callback = Averaging(decay=decay)
    return averaging
