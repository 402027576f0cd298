"""Teach a diarizer the sessions of digits; docs/multispeaker.md says what came of it.

python examples/diarization/multispeaker/diarizer.py data.fsdd=FSDD data.others=LIBRISPEECH_SPEAKERS

Every option of diarizer.yaml can be given as `name=value`. It takes `diarizer`, with an encoder that begins anew
where `fresh` says so, and hears nobody of `data.test`. Three people are few to learn from what makes voices differ:
`data.others` is a folder of other people's recordings, whatever they say, with a manifest.jsonl whose lines have
`audio_filepath` and `speaker`. All voices are warped anew for each session, lest the people be learned by heart; and
beside who speaks, each layer of the encoder learns to say what a voice sounds like (voice_space.py), which holds for
people who were never heard.

`B` sessions, `T` frames, `N` speakers, `D` width, `K` directions of the space of voices.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# What the recipe of the bundled diarizer learns from as well, and the voices of the recipe `digits`.
sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[2] / "asr" / "digits"))

import numpy as np
import torch
from listening import Helper, hear
from others import anew, pieces_of
from sessions import resampled
from torch import Tensor, nn
from torch.nn import functional as F
from train import RATE, Maker, Recipe, averaged, beginner, learn, main
from voice_space import PER_FRAME, VoiceSpace, cepstra, describe, runs_of
from voices import Voice, load_fsdd

import aronnax
from aronnax.collections.diarization.multispeaker.batch import MakeMultispeakerBatch, Session
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.sortformer.loss import diarization_losses
from aronnax.collections.diarization.sortformer.model import SortformerModel

AFFINITY_WEIGHT, EARLY_WEIGHT = 0.5, 0.3
"""Of telling whether two frames are of one speaker, and of what earlier layers find, as in small.yaml."""
SOUND_WEIGHT = 0.3
"""Of what a voice sounds like, for each layer."""
HEAD_SCALE, FRAME_WEIGHT = 4.0, 0.5
"""Of what the heads say, which lets them learn faster, and of single frames beside whole stretches."""
SHORTEST = 4
"""Frames of the shortest stretch of one speaker whose sound is learned."""


class Warping(Maker):
    """Sessions whose voices are warped anew each time."""

    def _voices(self, count: int, rng: random.Random) -> list[Voice]:
        return [anew(voice, rng) for voice in super()._voices(count, rng)]


class Sound(nn.Module):
    """Says for each frame, from the states of each layer of an encoder, where in the space of voices it is."""

    mean: Tensor
    directions: Tensor
    between: Tensor

    def __init__(self, layers: int, width: int, space: VoiceSpace) -> None:
        super().__init__()
        heads = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(space.between))) for _ in range(layers)
        )
        self.heads = nn.ModuleList(heads)
        # Part of the state, lest a training that goes on aim at something else.
        for name in ("mean", "directions", "between"):
            self.register_buffer(name, torch.from_numpy(getattr(space, name).copy()))

    def forward(self, states: Sequence[Tensor], sessions: Sequence[Session]) -> Tensor:
        """The loss of states [B, T, D] after each layer, which heard these sessions.

        The mean over a stretch of one speaker says what the stretch sounds like, each of its frames does a little.
        """
        space = VoiceSpace(self.mean.numpy(), self.directions.numpy(), self.between.numpy())
        stretches = [
            (row, *one) for row, session in enumerate(sessions) for one in _stretches(session, space)
        ]
        total = torch.zeros(())
        if not stretches:
            return total
        truth = torch.from_numpy(np.stack([place for *_, place in stretches])).float()
        telling = torch.from_numpy(space.telling).float()
        for head, layer in zip(self.heads, states):
            said = HEAD_SCALE * head(layer.float())
            parts = [said[row, start:stop] for row, start, stop, _ in stretches]
            whole = (torch.stack([part.mean(0) for part in parts]) - truth).square() @ telling
            frames = torch.cat([(part - place).square() @ telling for part, place in zip(parts, truth)])
            total = total + (whole.mean() + FRAME_WEIGHT * frames.mean()) / len(telling)
        return total


def _stretches(session: Session, space: VoiceSpace) -> Iterator[tuple[int, int, np.ndarray]]:
    """Frames [start, stop) of each stretch of one speaker, and what it sounds like."""
    numbers, energy = cepstra(session.signal.numpy())
    who = session.activity > 0.5
    for column in np.eye(who.shape[1], dtype=bool):
        for start, stop in runs_of((who == column).all(1)):
            part = slice(start * PER_FRAME, stop * PER_FRAME)
            described = describe(numbers[part], energy[part])
            if stop - start >= SHORTEST and described is not None:
                yield start, stop, space.place(described)


def train(recipe: Recipe) -> SortformerModel:
    """Train, or go on with, the run; returns the averaged model."""
    torch.set_num_threads(1)
    config = recipe.training
    torch.manual_seed(config.seed)
    model = aronnax.load(recipe.diarizer, device="cpu")
    assert isinstance(model, SortformerModel)
    if recipe.fresh:
        model.encoder = SortformerModel(model.config).encoder
    # Somebody must say how sessions become batches: the model that the diarizer will be part of.
    whole = MultispeakerModel.of(beginner(recipe), speakers=recipe.speakers)
    maker = Warping(recipe, MakeMultispeakerBatch(whole))
    recorded = load_fsdd(Path(recipe.data.fsdd))
    people = [Voice(name, clips) for name, clips in recorded.items() if name not in recipe.data.test]
    if recipe.data.others is not None:
        share, cache = recipe.data.others_share, Path(recipe.data.cache) if recipe.data.cache else None
        maker.groups = [((1 - share) * known, voices) for known, voices in maker.groups]
        others = pieces_of(recipe.data.others, recipe.data.others_doubles, config.seed, cache)
        maker.groups.append((share, others))
        people += [voice for voice in others if "/" not in voice.name]
    else:
        print(f"without data.others: what makes voices differ is learned from {len(people)} people")
    model.requires_grad_(True).train()
    width = model.config.encoder.d_model
    helper, sound = Helper(width), Sound(model.config.encoder.n_layers, width, VoiceSpace.of(people))
    optimizer = torch.optim.AdamW(
        [{"params": [*model.parameters(), *helper.parameters(), *sound.parameters()], "share": 1.0}],
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    average = averaged(model, config)

    def losses(step: int, seconds: float) -> dict[str, Tensor]:
        sessions, batch = maker.made(step, config.sessions, seconds)
        signal = resampled(batch.speech.signal, model.sample_rate)
        lengths = batch.speech.signal_lengths * model.sample_rate // RATE
        with torch.autocast("cpu", torch.bfloat16):
            states, layers, lengths = hear(model, signal, lengths)
        labels = F.pad(batch.activity, (0, model.max_speakers - recipe.speakers))
        labels = F.pad(labels, (0, 0, 0, max(0, states[-1].shape[1] - labels.shape[1])))
        *early, last = (diarization_losses(found, labels, lengths) for found in layers)
        before = torch.stack([one.loss for one in early]).mean()
        # Two sessions can have the same speaker, so that only frames of one session are compared.
        pairs, _ = helper(states[-1].float(), labels, lengths)
        alike = sound(states, sessions)
        loss = 4 * (last.loss + EARLY_WEIGHT * before) + AFFINITY_WEIGHT * pairs + SOUND_WEIGHT * alike
        return {"loss": loss, "sort": last.sort, "pil": last.pil, "pairs": pairs, "sound": alike}

    parts = {"model": model, "helper": helper, "sound": sound, "optimizer": optimizer}
    learn(config, recipe.output, parts, average, losses)
    trained: SortformerModel = average.module
    return trained.eval()


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        main(sys.argv[1:], train, "diarizer.yaml")
