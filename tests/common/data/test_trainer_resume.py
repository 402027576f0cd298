"""Under Lightning's trainer: training goes on at the very next batch, wherever the checkpoint was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from aronnax.collections.asr.batch import SpeechBatch, speech_data
from aronnax.collections.common.data import DataConfig
from aronnax.collections.common.text import CharacterTokenizer
from aronnax.core.config import from_dict

STEPS = 14


class Recording(pl.LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []

    def training_step(self, batch: SpeechBatch, index: int) -> torch.Tensor:
        self.seen.append(batch.ids)
        return (self.weight * batch.signal.mean()).sum()

    def validation_step(self, batch: SpeechBatch, index: int) -> None: ...

    def transfer_batch_to_device(self, batch: SpeechBatch, device: Any, index: int) -> SpeechBatch:
        return batch.to(device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAt(pl.Callback):
    """Writes a checkpoint after one step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    manifest: Path, steps: int, options: dict[str, Any], resume: Path | None = None, *save: SaveAt
) -> list[list[str]]:
    data = from_dict(
        DataConfig,
        {
            "train": str(manifest),
            "validation": str(manifest),
            "sample_rate": 8000,
            "num_workers": 0,
            "batching": {"batch_size": 4, "buckets": 3},
        },
    )
    module = Recording()
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(save),
        **options,
    )
    trainer.fit(
        module,
        datamodule=speech_data(data, CharacterTokenizer(" abc")),
        ckpt_path=resume,
        weights_only=False,
    )
    return module.seen


@pytest.mark.parametrize(
    "options", [{}, {"limit_train_batches": 4}, {"val_check_interval": 3, "check_val_every_n_epoch": None}]
)
def test_a_resumed_run_sees_what_an_unbroken_one_sees(
    write_corpus: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    manifest = write_corpus(30)
    unbroken = fit(manifest, STEPS, options)
    assert len(unbroken) == STEPS
    for step in (3, 9):
        path = tmp_path / f"{step}.ckpt"
        # Two more steps than the checkpoint knows of: they are lost and must come again.
        assert fit(manifest, step + 2, options, None, SaveAt(step, path)) == unbroken[: step + 2]
        assert fit(manifest, STEPS, options, path) == unbroken[step:]
