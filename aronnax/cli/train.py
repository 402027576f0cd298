"""`aronnax train CONFIG.yaml key=value ...`: trains or fine-tunes a model of any type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from aronnax.cli.commands import Argument
from aronnax.core.config import load_mapping
from aronnax.core.errors import MissingExtraError


def train(
    config: Annotated[Path, Argument(help="YAML file; see examples/*/*.yaml and docs/training.md.")],
    overrides: Annotated[
        list[str] | None,
        Argument(help="Changes on top, e.g. data.train=train.jsonl trainer.max_steps=100."),
    ] = None,
) -> None:
    """Train or fine-tune a model from a YAML configuration.

    The same command on the same output folder goes on where a stopped or killed run was last saved. The word
    error rate of the validation set is printed before and after; logs are for `tensorboard --logdir OUTPUT`.
    """
    # Lightning and what stands on it take seconds to import: a file that is not there is told before.
    load_mapping(config, overrides or [])
    try:
        import lightning  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("lightning", "train", "aronnax train") from error
    _quiet()
    from aronnax.collections.common.training.run import system_of
    from aronnax.core.registry import training

    # Without any type the recognisers' own message says what is missing.
    module = training(system_of(config, overrides or []) or "ctc")
    module.train(module.load_config(config, overrides or []))


def _quiet() -> None:
    """Leaves out the libraries' notes that say nothing to someone who trains."""
    import logging
    import warnings

    quiet = ("utilities.rank_zero", "trainer.connectors.signal_connector")
    for name in (*(f"lightning.pytorch.{part}" for part in quiet), "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*in eval mode at the start of training.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*treespec.*|.*isinstance.*LeafSpec.*", FutureWarning)
