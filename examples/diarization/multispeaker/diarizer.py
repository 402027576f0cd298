"""Teach a diarizer the sessions of digits; docs/multispeaker.md says what came of it.

python examples/diarization/multispeaker/diarizer.py data.fsdd=FSDD output=runs/multispeaker/diarizer

It goes on from `diarizer` with the options `listening` of digits.yaml, and hears nobody of `data.test`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import soxr
import torch
from torch import Tensor
from torch.nn import functional as F
from train import RATE, Maker, Recipe, averaged, beginner, learn, main

import aronnax
from aronnax.collections.diarization.multispeaker.batch import MakeMultispeakerBatch
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.sortformer.loss import diarization_losses
from aronnax.collections.diarization.sortformer.model import SortformerModel


def train(recipe: Recipe) -> SortformerModel:
    """Train, or go on with, the run; returns the averaged model."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.listening.seed)
    config = recipe.listening
    model = aronnax.load(recipe.diarizer, device="cpu")
    assert isinstance(model, SortformerModel)
    # Somebody must say how sessions become batches: the model that the diarizer will be part of.
    whole = MultispeakerModel.of(beginner(recipe), speakers=recipe.speakers)
    maker = Maker(replace(recipe, data=replace(recipe.data, exact=1.0)), MakeMultispeakerBatch(whole))
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "share": 1.0}],
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    average = averaged(model, config)

    def losses(step: int, seconds: float) -> dict[str, Tensor]:
        batch = maker.batch(step, config.sessions, seconds)
        rows = soxr.resample(batch.speech.signal.T.numpy(), RATE, model.sample_rate)
        lengths = batch.speech.signal_lengths * model.sample_rate // RATE
        found = model(torch.from_numpy(rows.T.copy()), lengths)
        labels = F.pad(batch.activity, (0, model.max_speakers - recipe.speakers))
        frames = found.probabilities.shape[1]
        labels = F.pad(labels, (0, 0, 0, max(0, frames - labels.shape[1])))
        lost = diarization_losses(found.probabilities, labels, found.lengths)
        return {"loss": lost.loss, "sort": lost.sort, "pil": lost.pil}

    learn(config, recipe.output, {"model": model, "optimizer": optimizer}, average, losses)
    trained: SortformerModel = average.module
    return trained.eval()


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        main(sys.argv[1:], train)
