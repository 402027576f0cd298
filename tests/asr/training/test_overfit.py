from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from aronnax.collections.asr.task import make_task
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.common.training import TrainerConfig
from aronnax.collections.common.training.trainer import build_trainer

OPTIM = OptimConfig(lr=5e-3, schedule="cosine", warmup_steps=10, min_lr=1e-5, weight_decay=0.0)


def fit(task, batch, output: Path, **options) -> dict[str, float]:
    """Trains on one batch over and over, then validates on it."""
    options = {"accelerator": "cpu", "loggers": (), "val_every": 10**6, "checkpoint_every": 10**6, **options}
    trainer = build_trainer(TrainerConfig(**options), output, {})
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, loader, loader)
        (metrics,) = trainer.validate(task, loader, verbose=False)
    return metrics


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", [pytest.param("ctc", marks=SLOW), pytest.param("transducer", marks=SLOW), "hybrid"]
)
def test_a_tiny_model_learns_eight_utterances_by_heart(tiny_model, tone_batch, tone_texts, tmp_path, kind):
    model = tiny_model(kind, dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0)
    task = make_task(model, OPTIM)
    metrics = fit(task, tone_batch(tone_texts, model.tokenizer), tmp_path, max_steps=150)
    for head in model.heads:
        assert metrics[f"val/{head}_wer"] == 0.0, metrics
    assert metrics["val/wer"] == 0.0


@pytest.mark.slow
def test_a_transducer_learns_on_after_its_tokenizer_was_replaced(
    tiny_model, tone_batch, tone_texts, tmp_path
):
    from aronnax.collections.asr.finetune import replace_tokenizer
    from aronnax.collections.common.text import CharacterTokenizer

    model = tiny_model("hybrid", dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0)
    fit(make_task(model, OPTIM), tone_batch(tone_texts, model.tokenizer), tmp_path / "first", max_steps=100)
    names = str.maketrans("abcd", "wxyz")
    texts = tuple(text.translate(names) for text in tone_texts)
    replaced = replace_tokenizer(model, CharacterTokenizer(list("wxyz ")))
    batch = tone_batch(tone_texts, model.tokenizer)
    batch.texts = list(texts)
    for row, text in enumerate(texts):
        ids = replaced.tokenizer.encode(text)
        batch.tokens[row, : len(ids)] = torch.tensor(ids)
    metrics = fit(make_task(replaced, OPTIM), batch, tmp_path / "second", max_steps=120)
    assert metrics["val/tdt_wer"] == metrics["val/ctc_wer"] == 0.0, metrics
