"""Trains a small token-and-duration transducer from Python.

python examples/asr/train_tdt.py train.jsonl validation.jsonl runs/tdt
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
MODEL = {
    "type": "transducer",
    "encoder": ENCODER,
    "prediction": {"hidden": 96},
    "joint": {"hidden": 96},
    "durations": [0, 1, 2, 3, 4],
    "spec_augment": {"freq_masks": 1, "time_masks": 1},
}

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
