"""Trains a small CTC model from Python, as `aronnax train` does from a YAML file.

python examples/asr/train_ctc.py train.jsonl validation.jsonl runs/ctc
"""

from __future__ import annotations

import sys

from aronnax.collections.asr.training import TrainConfig, train
from aronnax.collections.asr.vocabulary import TokenizerSection
from aronnax.collections.common.data import BatchingConfig, DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig

ENCODER = {
    "n_layers": 4,
    "d_model": 96,
    "n_heads": 4,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 48,
}
MODEL = {"type": "ctc", "encoder": ENCODER, "spec_augment": {"freq_masks": 1, "time_masks": 1}}

if __name__ == "__main__":
    train_manifest, validation_manifest, output = sys.argv[1:4]
    config = TrainConfig(
        output=output,
        model=MODEL,
        tokenizer=TokenizerSection(kind="characters"),
        data=DataConfig(
            train=train_manifest,
            validation=validation_manifest,
            batching=BatchingConfig(batch_duration=24.0, batch_size=32),
        ),
        optim=OptimConfig(lr=2e-3, schedule="cosine", warmup_steps=100),
        trainer=TrainerConfig(max_steps=600, val_every=200, accelerator="cpu"),
    )
    result = train(config)
    print(f"WER {100 * result.before['val/wer']:.1f} % -> {100 * result.after['val/wer']:.1f} %")
