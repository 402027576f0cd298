"""Fine-tunes any loadable checkpoint on a manifest; new words may bring new pieces, the old ones keep their rows.

python examples/asr/finetune.py digits train.jsonl validation.jsonl runs/finetuned [piece ...]
"""

from __future__ import annotations

import sys

from aronnax.collections.asr.training import TrainConfig, train
from aronnax.collections.asr.vocabulary import TokenizerSection
from aronnax.collections.common.data import BatchingConfig, DataConfig
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig

if __name__ == "__main__":
    checkpoint, train_manifest, validation_manifest, output, *pieces = sys.argv[1:]
    config = TrainConfig(
        output=output,
        init_from=checkpoint,
        tokenizer=TokenizerSection(add=tuple(pieces)),
        data=DataConfig(
            train=train_manifest,
            validation=validation_manifest,
            batching=BatchingConfig(batch_size=16),
        ),
        # The encoder learns slower than the heads, and only after they have found their feet.
        optim=OptimConfig(
            lr=1e-3, warmup_steps=50, multipliers={"encoder": 0.3}, first_steps={"encoder": 50}
        ),
        trainer=TrainerConfig(max_steps=300, val_every=100, accelerator="cpu"),
    )
    result = train(config)
    print(f"WER {100 * result.before['val/wer']:.1f} % -> {100 * result.after['val/wer']:.1f} %")
