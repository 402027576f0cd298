"""Teach a diarizer the sessions of digits; docs/multispeaker.md says what came of it.

python examples/diarization/multispeaker/diarizer.py data.fsdd=FSDD output=runs/multispeaker/diarizer

It goes on from `diarizer` with the options `listening` of digits.yaml, and hears nobody of `data.test`. Three people
are few to learn from what makes voices differ: `data.others` is a folder of other people's recordings, whatever they
say.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

# What the recipe of the bundled diarizer learns from as well, and the voices of the recipe `digits`.
sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[2] / "asr" / "digits"))

import soxr
import torch
from listening import Helper, hear
from others import pieces_of
from torch import Tensor
from torch.nn import functional as F
from train import RATE, Maker, Recipe, averaged, beginner, learn, main

import aronnax
from aronnax.collections.diarization.multispeaker.batch import MakeMultispeakerBatch
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.sortformer.loss import diarization_losses
from aronnax.collections.diarization.sortformer.model import SortformerModel

AFFINITY_WEIGHT, EARLY_WEIGHT = 0.5, 0.3
"""Of telling whether two frames are of one speaker, and of what earlier layers find, as in small.yaml."""


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
    maker.seed = config.seed
    if recipe.data.others is not None:
        share = recipe.data.others_share
        maker.groups = [((1 - share) * known, voices) for known, voices in maker.groups]
        maker.groups.append((share, pieces_of(recipe.data.others)))
    model.requires_grad_(True).train()
    helper = Helper(model.config.encoder.d_model)
    optimizer = torch.optim.AdamW(
        [{"params": [*model.parameters(), *helper.parameters()], "share": 1.0}],
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    average = averaged(model, config)

    def losses(step: int, seconds: float) -> dict[str, Tensor]:
        batch = maker.batch(step, config.sessions, seconds)
        rows = soxr.resample(batch.speech.signal.T.numpy(), RATE, model.sample_rate)
        lengths = batch.speech.signal_lengths * model.sample_rate // RATE
        with torch.autocast("cpu", torch.bfloat16):
            states, layers, lengths = hear(model, torch.from_numpy(rows.T.copy()), lengths)
        labels = F.pad(batch.activity, (0, model.max_speakers - recipe.speakers))
        labels = F.pad(labels, (0, 0, 0, max(0, states.shape[1] - labels.shape[1])))
        *early, last = (diarization_losses(found, labels, lengths) for found in layers)
        before = torch.stack([one.loss for one in early]).mean()
        # Two sessions can have the same speaker, so that only frames of one session are compared.
        pairs, _ = helper(states.float(), labels, lengths)
        aside = 1 - 0.8 * step / config.steps
        loss = 4 * (last.loss + EARLY_WEIGHT * before) + aside * AFFINITY_WEIGHT * pairs
        return {"loss": loss, "sort": last.sort, "pil": last.pil, "pairs": pairs}

    parts = {"model": model, "helper": helper, "optimizer": optimizer}
    learn(config, recipe.output, parts, average, losses)
    trained: SortformerModel = average.module
    return trained.eval()


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        main(sys.argv[1:], train)
