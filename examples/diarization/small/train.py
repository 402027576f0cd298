"""Train the bundled diarizer; docs/diarizer_small.md says how, and what came of it.

python examples/diarization/small/train.py data.voices=/data/librispeech_speakers output=runs/diarizer-small

Every option of small.yaml can be given as `name=value`. A stopped training goes on where it was last saved.
"""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

# What the multi-speaker recipe's diarizer learns from as well.
sys.path.insert(1, str(Path(__file__).parents[1]))

import numpy as np
import torch
from listening import Helper, hear
from sessions import Loudness, session
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from voices import Surroundings, made_of, read_speakers, split, synthesised

import aronnax
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.sortformer.config import SortformerConfig
from aronnax.collections.diarization.sortformer.loss import DiarizationLosses, diarization_losses
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.config import load_yaml

FEATURE_MEAN, FEATURE_SPREAD = -11.0, 3.0
"""Of log-mel energies of speech at usual levels."""
PACE = (0.4, 1.4)
"""Turns of a session last, in the mean, so many times what the stage says."""


@dataclass(frozen=True)
class DataConfig:
    """What the model hears."""

    voices: str
    """Folder of single-speaker recordings with a manifest."""
    rir_noise: str | None = None
    """Folder of room responses and noises."""
    speeds: tuple[float, ...] = (0.84, 0.92, 1.0, 1.08, 1.16)
    """Speeds of the voices, pitch with them."""
    copies: int = 1
    """Voices made of each speaker by changing pitch and vocal tract."""
    plain: float = 0.5
    """Share of the sessions in which only real speakers speak."""


@dataclass(frozen=True)
class Stage:
    """Sessions of one length for a part of the training."""

    until: float
    """Share of the training up to which it holds."""
    seconds: float
    sessions: int
    """Sessions a step."""
    weights: tuple[float, ...]
    """How often sessions of 1, 2, 3 and 4 speakers come."""
    turn_seconds: float = 2.0
    front: bool = True
    """Whether the convolutions that shorten the features still learn."""
    bf16: bool = False
    """Whether the network computes in bfloat16, which pays for long sessions."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it learns."""

    minutes: float = 165.0
    """Processor time that it takes."""
    lr: float = 1.2e-3
    warmup: float = 0.03
    """Share of the training in which the learning rate rises."""
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.996
    """Decay of the moving average of the weights, which is what is kept."""
    affinity_weight: float = 0.5
    """Weight of telling, for pairs of frames, whether one speaker speaks in both; these two fall to a fifth."""
    halves_weight: float = 0.5
    """Weight of finding, among all speakers of a batch, who goes on speaking."""
    early_weight: float = 0.3
    """Weight of the same diarization out of the Transformer's earlier layers, relative to that of the last."""
    stages: tuple[Stage, ...] = ()
    save_every: int = 200
    start: str | None = None
    """A model of the same shape to start from."""
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """The whole recipe."""

    data: DataConfig
    output: str = "runs/diarizer-small"
    model: SortformerConfig = field(default_factory=SortformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


class Batch(NamedTuple):
    """Signal [B, S], its lengths [B] in samples and labels [B, T, N]."""

    signal: Tensor
    lengths: Tensor
    labels: Tensor


class Maker:
    """Batches of sessions, each of a seed of its own."""

    def __init__(self, config: DataConfig, columns: int) -> None:
        self.real, _, _ = split(read_speakers(config.voices))
        self.speakers = [*self.real, *made_of(self.real, config.copies), *synthesised()]
        self.surroundings, self.speeds, self.plain = (
            Surroundings.read(config.rir_noise),
            config.speeds,
            config.plain,
        )
        self.columns, self.loudness = columns, Loudness(silent_probability=0.03, narrow_probability=0.25)

    def batch(self, stage: Stage, seed: str) -> Batch:
        """As many sessions as the stage has in a step."""
        rng = random.Random(seed)
        config = SimulationConfig(
            seconds=stage.seconds,
            speakers=(1, 2, 3, 4),
            speaker_weights=stage.weights,
            turn_seconds=stage.turn_seconds,
            silence=0.15,
            overlap=0.12,
            speeds=self.speeds,
            room_probability=0.3,
        )
        made = []
        for _ in range(stage.sessions):
            pool = self.real if rng.random() < self.plain else self.speakers
            pace = replace(config, turn_seconds=stage.turn_seconds * rng.uniform(*PACE))
            made.append(session(pool, self.surroundings, pace, self.loudness, rng, self.columns))
        signal = torch.from_numpy(np.stack([one.signal for one in made]))
        labels = torch.from_numpy(np.stack([one.labels for one in made]))
        return Batch(signal, torch.full((len(made),), signal.shape[1]), labels)


def learning_rate(config: TrainingConfig, done: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth, by the share of the training that is done."""
    if done < config.warmup:
        return config.lr * max(0.01, done / config.warmup)
    left = (done - config.warmup) / (1 - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, left))))


def train(recipe: Recipe) -> SortformerModel:
    """Train, or go on with, the recipe's run; returns the averaged model."""
    config, output = recipe.training, Path(recipe.output)
    torch.manual_seed(config.seed)
    maker = Maker(recipe.data, recipe.model.max_speakers)
    model = centred(SortformerModel(recipe.model)).train()
    if config.start is not None:
        model.load_state_dict(aronnax.load(config.start, device="cpu").state_dict())
    helper = Helper(recipe.model.encoder.d_model)
    print(
        f"{len(maker.real)} speakers, {len(maker.speakers) * len(maker.speeds)} voices,"
        f" {model.num_parameters():,} parameters, {time.process_time():.0f} s of processor time for making them",
        flush=True,
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True)
    learning = [p for p in [*model.parameters(), *helper.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    parts = {"model": model, "helper": helper, "average": average, "optimizer": optimizer}
    step, spent = resume(output / "state.pt", parts)
    # Processor time of this run and, with what was spent in the runs before it, of the whole training.
    spent -= time.process_time() if step else 0.0
    sums, making = np.zeros(5), 0.0
    while (done := (spent + time.process_time()) / (60 * config.minutes)) < 1:
        stage = next(stage for stage in config.stages if done < stage.until)
        model.encoder.pre_encode.conv.requires_grad_(stage.front)
        clock = time.process_time()
        batch = maker.batch(stage, f"{config.seed} step {step}")
        making += time.process_time() - clock
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, done)
        optimizer.zero_grad()
        loss, seen = losses(recipe, model, helper, batch, 1 - 0.8 * done, stage.bf16)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learning, config.clip)
        optimizer.step()
        # A young average forgets its beginning.
        if step < 10:
            average.module.load_state_dict(model.state_dict())
        average.update_parameters(model)
        sums += [*seen, float(norm)]
        step += 1
        if step % 25 == 0:
            sort, pil, pair, half, norm_ = sums / 25
            print(
                f"step {step} {100 * done:.1f} % ({time.process_time():.0f} s of processor time,"
                f" {making:.0f} s for the sessions) sort {sort:.4f} pil {pil:.4f} pairs {pair:.3f} halves {half:.3f}"
                f" norm {norm_:.2f}",
                flush=True,
            )
            sums[:] = 0
        if step % config.save_every == 0:
            save_state(output / "state.pt", step, spent + time.process_time(), parts)
            average.module.save_pretrained(output / "model", dtype=torch.float16)
    save_state(output / "state.pt", step, spent + time.process_time(), parts)
    average.module.save_pretrained(output / "model", dtype=torch.float16)
    return average.module.eval()


def losses(
    recipe: Recipe, model: SortformerModel, helper: Helper, batch: Batch, aside: float, bf16: bool
) -> tuple[Tensor, list[float]]:
    """What is learned from, and its parts; the tasks beside the diarization count `aside` times their weight."""
    config = recipe.training
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        (*_, states), (*early, last), lengths = hear(model, batch.signal, batch.lengths)

    def diarization(found: Tensor) -> DiarizationLosses:
        return diarization_losses(
            found,
            batch.labels,
            lengths,
            sort_weight=recipe.model.sort_weight,
            pil_weight=recipe.model.pil_weight,
        )

    found = diarization(last)
    before = sum((diarization(one).loss for one in early), torch.zeros(())) / max(1, len(early))
    affinity, halves = helper(states.float(), batch.labels, lengths)
    beside = config.affinity_weight * affinity + config.halves_weight * halves
    loss = 4 * (found.loss + config.early_weight * before) + aside * beside
    return loss, [one.item() for one in (found.sort, found.pil, affinity, halves)]


def centred(model: SortformerModel) -> SortformerModel:
    """Starts the first convolution as if typical features were around 0: they are not normalised."""
    first = next(module for module in model.encoder.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight /= FEATURE_SPREAD
        first.bias -= FEATURE_MEAN * first.weight.sum((1, 2, 3))
    return model


def save_state(
    path: Path, step: int, spent: float, parts: dict[str, nn.Module | torch.optim.Optimizer]
) -> None:
    """All that resuming needs, replaced in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "spent": spent, **{name: part.state_dict() for name, part in parts.items()}}
    torch.save(state, f"{path}.new")
    Path(f"{path}.new").replace(path)


def resume(path: Path, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> tuple[int, float]:
    """Steps done and processor time spent by the runs before this one, whose state is loaded; zeros without one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    step, spent = state.pop("step"), state.pop("spent")
    for name, values in state.items():
        parts[name].load_state_dict(values)
    print(f"going on from step {step}", flush=True)
    return step, spent


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        train(load_yaml(Recipe, Path(__file__).with_name("small.yaml"), sys.argv[1:]))
