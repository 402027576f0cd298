"""Fine-tuning a model that carries an aligner keeps the aligner whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.ctc.model import CTCModel
from aronnax.collections.asr.finetune import adapt, replace_tokenizer
from tests.asr.canary.small_canary import small_canary, small_tokenizer


@pytest.fixture(scope="module")
def aligned() -> CanaryModel:
    small = small_canary(lively=False)
    inner = small_tokenizer().inner
    aligner = CTCModel.Config(
        vocab_size=inner.vocab_size, preprocessor=small.config.preprocessor, encoder=small.config.encoder
    )
    return CanaryModel(replace(small.config, aligner=aligner), inner, inner)


@pytest.mark.parametrize("change", ["options", "tokenizer"])
def test_the_aligner_keeps_weights_and_tokenizer(aligned: CanaryModel, change: str) -> None:
    if change == "options":
        tuned = adapt(aligned, {"longest_seconds": 20.0})
    else:
        tuned = replace_tokenizer(aligned, small_tokenizer(aggregate=False))
    assert isinstance(tuned, CanaryModel)
    assert tuned.aligner is not None
    assert tuned.aligner.tokenizer is not None
    assert aligned.aligner is not None
    before, after = aligned.aligner.state_dict(), tuned.aligner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in tuned.aligner.parameters())
    assert {name for name in tuned.assets() if name.startswith("aligner/")}
