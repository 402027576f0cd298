"""Train the bundled diarizer; docs/diarizer_small.md says how, and what came of it.

python examples/diarization/small/train.py data.voices=/data/librispeech_speakers output=runs/diarizer-small

Every option of small.yaml can be given as `name=value`. A stopped training goes on where it was last saved.
"""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sessions import Loudness, session
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from voices import Speaker, Surroundings, read_speakers, split

from aronnax.collections.common.nn.masks import valid_frames
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.sortformer.config import SortformerConfig
from aronnax.collections.diarization.sortformer.loss import diarization_losses
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.config import load_yaml

FEATURE_MEAN, FEATURE_SPREAD = -11.0, 3.0
"""Of log-mel energies of speech at usual levels."""
NAMING_SCALE = 15.0
"""Of the cosines between a frame and the training voices."""


@dataclass(frozen=True)
class DataConfig:
    """What the model hears."""

    voices: str
    """Folder of single-speaker recordings with a manifest."""
    rir_noise: str | None = None
    """Folder of room responses and noises."""
    speeds: tuple[float, ...] = (0.84, 0.92, 1.0, 1.08, 1.16)
    """Speeds of the voices, pitch with them."""


@dataclass(frozen=True)
class Stage:
    """Sessions of one length for a part of the training."""

    until: float
    """Share of the steps up to which it holds."""
    seconds: float
    sessions: int
    """Sessions a step."""
    weights: tuple[float, ...]
    """How often sessions of 1, 2, 3 and 4 speakers come."""
    turn_seconds: float = 2.0
    bf16: bool = False
    """Whether the network computes in bfloat16, which pays for long sessions."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it learns."""

    steps: int = 2000
    lr: float = 1.5e-3
    warmup: int = 150
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.995
    """Decay of the moving average of the weights, which is what is kept."""
    affinity_weight: float = 0.5
    """Weight of telling, for pairs of frames, whether one speaker speaks in both; falls to 0 at the end."""
    speaker_weight: float = 0.1
    """Weight of naming the training speaker of a frame; falls to 0 at the end."""
    stages: tuple[Stage, ...] = ()
    save_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    data: DataConfig
    output: str = "runs/diarizer-small"
    model: SortformerConfig = field(default_factory=SortformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


class Helper(nn.Module):
    """Two tasks beside the diarization that make the encoder's states tell voices apart from the first step on."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, 64)
        self.scale = nn.Parameter(torch.tensor([8.0, -2.0]))
        self.speaker = nn.Parameter(torch.randn(classes, 64))

    def forward(
        self, states: Tensor, labels: Tensor, lengths: Tensor, identities: Tensor
    ) -> tuple[Tensor, Tensor]:
        """states [B, T, D], labels [B, T, N], identities [B, N] -> the losses of pairs and of names."""
        frames = min(states.shape[1], labels.shape[1])
        states, labels = states[:, :frames], labels[:, :frames]
        alone = (labels.sum(2) == 1) & valid_frames(lengths, frames)
        seen = F.normalize(self.affinity(states), dim=-1)
        likeness = self.scale[0] * seen @ seen.transpose(1, 2) + self.scale[1]
        same = labels @ labels.transpose(1, 2)
        pairs = (alone[:, :, None] & alone[:, None, :]).float()
        # Pairs of two voices count as much as pairs of one.
        weight = pairs * (
            same / (pairs * same).sum().clamp(min=1) + (1 - same) / (pairs * (1 - same)).sum().clamp(min=1)
        )
        affinity = (F.binary_cross_entropy_with_logits(likeness, same, reduction="none") * weight).sum() / 2
        who = identities.gather(1, labels.argmax(2))[alone]
        return affinity, F.cross_entropy(
            NAMING_SCALE * seen[alone] @ F.normalize(self.speaker, dim=-1).T, who
        )


class Maker:
    """Batches of sessions, each of a seed of its own."""

    def __init__(
        self, speakers: list[Speaker], surroundings: Surroundings, config: DataConfig, columns: int
    ) -> None:
        self.speakers, self.surroundings, self.speeds = speakers, surroundings, config.speeds
        self.columns, self.loudness = columns, Loudness(silent_probability=0.03)
        names = [(speaker.name, speed) for speaker in speakers for speed in config.speeds]
        self.number = {name: number for number, name in enumerate(names)}

    def batch(self, stage: Stage, seed: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Signal [B, S], its lengths, labels [B, T, N] and the voices' numbers [B, N]."""
        rng = random.Random(seed)
        config = SimulationConfig(
            seconds=stage.seconds,
            speakers=(1, 2, 3, 4),
            speaker_weights=stage.weights,
            turn_seconds=stage.turn_seconds,
            silence=0.15,
            overlap=0.12,
            speeds=self.speeds,
        )
        made = [
            session(self.speakers, self.surroundings, config, self.loudness, rng, self.columns)
            for _ in range(stage.sessions)
        ]
        identities = torch.zeros(len(made), self.columns, dtype=torch.long)
        for row, one in enumerate(made):
            speeds = {turn.speaker: turn.speed for turn in one.turns}
            for column, name in enumerate(one.names):
                identities[row, column] = self.number[name, speeds[name]]
        signal = torch.from_numpy(np.stack([one.signal for one in made]))
        labels = torch.from_numpy(np.stack([one.labels for one in made]))
        return signal, torch.full((len(made),), signal.shape[1]), labels, identities


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def train(recipe: Recipe) -> SortformerModel:
    """Train, or go on with, the recipe's run; returns the averaged model."""
    config, output = recipe.training, Path(recipe.output)
    torch.manual_seed(config.seed)
    speakers, _, _ = split(read_speakers(recipe.data.voices))
    maker = Maker(speakers, Surroundings.read(recipe.data.rir_noise), recipe.data, recipe.model.max_speakers)
    model = centred(SortformerModel(recipe.model)).train()
    helper = Helper(recipe.model.encoder.d_model, len(maker.number))
    print(
        f"{len(speakers)} speakers, {len(maker.number)} voices, {model.num_parameters():,} parameters",
        flush=True,
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True)
    learning = [p for p in [*model.parameters(), *helper.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    parts, first = {"model": model, "helper": helper, "average": average, "optimizer": optimizer}, 0
    state_file = output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state.pop("step")
        for name, values in state.items():
            parts[name].load_state_dict(values)
        print(f"going on from step {first}", flush=True)
    started, sums, making = time.monotonic(), np.zeros(5), 0.0
    for step in range(first, config.steps):
        stage = next(stage for stage in config.stages if step < stage.until * config.steps)
        clock = time.process_time()
        signal, lengths, labels, identities = maker.batch(stage, f"{config.seed} step {step}")
        making += time.process_time() - clock
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
            states, found, frames = hear(model, signal, lengths)
        losses = diarization_losses(
            found, labels, frames, sort_weight=recipe.model.sort_weight, pil_weight=recipe.model.pil_weight
        )
        affinity, naming = helper(states.float(), labels, frames, identities)
        fading = 1 - step / config.steps
        loss = 4 * losses.loss + fading * (config.affinity_weight * affinity + config.speaker_weight * naming)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learning, config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        # A young average forgets its beginning.
        if step < first + 10 and first == 0:
            average.module.load_state_dict(model.state_dict())
        average.update_parameters(model)
        sums += [losses.sort.item(), losses.pil.item(), affinity.item(), naming.item(), float(norm)]
        if (step + 1) % 25 == 0:
            sort, pil, pair, name, norm_ = sums / 25
            print(
                f"step {step + 1} {time.monotonic() - started:.0f} s ({time.process_time():.0f} s of processor time,"
                f" {making:.0f} s for the sessions) sort {sort:.4f} pil {pil:.4f} pairs {pair:.3f} names {name:.2f}"
                f" norm {norm_:.2f}",
                flush=True,
            )
            sums[:] = 0
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(state_file, step + 1, parts)
            average.module.save_pretrained(output / "model", dtype=torch.float16)
    return average.module.eval()


def centred(model: SortformerModel) -> SortformerModel:
    """Starts the first convolution as if typical features were around 0: they are not normalised."""
    first = next(module for module in model.encoder.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight /= FEATURE_SPREAD
        first.bias -= FEATURE_MEAN * first.weight.sum((1, 2, 3))
    return model


def hear(model: SortformerModel, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The encoder's states [B, T, D], the probabilities [B, T, N] and the lengths in frames."""
    with torch.no_grad():
        features, lengths = model.features(signal, lengths)
        features = model.spec_augmentation(features, lengths)
    frames, lengths = model.encoder.pre_encode(features, lengths)
    states = model.encoder.encode_frames(frames, lengths).states
    seen = model.transformer_encoder(model.sortformer_modules.project(states), lengths)
    return states, model.sortformer_modules(seen).float(), lengths


def save_state(path: Path, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
    """All that resuming needs, replaced in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, f"{path}.new")
    Path(f"{path}.new").replace(path)


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        train(load_yaml(Recipe, Path(__file__).with_name("small.yaml"), sys.argv[1:]))
