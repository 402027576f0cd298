"""Train multi-speaker recognition of digits; docs/multispeaker.md says how, and what came of it.

python examples/diarization/multispeaker/train.py data.fsdd=FSDD start=runs/digits/synthesised/model output=runs/with
python examples/diarization/multispeaker/train.py data.fsdd=FSDD ... kernel=null output=runs/without

Every option of digits.yaml can be given as `name=value`. A stopped training goes on where it was last saved.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# The corpus, the channels and a few pieces of the training are those of the recipe `digits`.
sys.path.insert(1, str(Path(__file__).parents[2] / "asr" / "digits"))

import numpy as np
import torch
from sessions import corrupted, make, plan, put_right, resampled
from strings import StringMaker, Surroundings
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from voices import Voice, load_fsdd, real_voices, synthesised_voices

import aronnax
from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.audio.warp import warp_bands
from aronnax.collections.common.optim import OptimConfig
from aronnax.collections.diarization.multispeaker.batch import (
    MakeMultispeakerBatch,
    MultispeakerBatch,
    Session,
)
from aronnax.collections.diarization.multispeaker.kernel import KernelConfig
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.multispeaker.task import MultispeakerTask, MultispeakerTaskConfig
from aronnax.collections.diarization.multispeaker.vocabulary import with_speaker_tokens
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.config import load_yaml
from aronnax.core.errors import ConfigError
from aronnax.core.model import Model

RATE = 8000


@dataclass(frozen=True)
class DataConfig:
    """What the model hears."""

    fsdd: str
    """Folder of the FSDD recordings with their manifest."""
    rir_noise: str | None = None
    """Folder of recorded room responses and noises; None for simulated ones alone."""
    cache: str | None = None
    """Folder where the voices are left for the next training."""
    test: tuple[str, ...] = ("george", "yweweler")
    """Speakers who are tested on, and not trained on at any speed or pitch."""
    doubles: int = 20
    """Warped voices made of each other speaker."""
    synthesised: int = 600
    """espeak-ng voices, each used as it is and warped."""
    synthesised_share: float = 0.35
    """Share of the speakers who are espeak-ng voices."""
    others: str | None = None
    """Folder of recordings of other people with their manifest; diarizer.py alone hears them, cut into pieces."""
    others_share: float = 0.5
    """Share of the speakers who are of these."""
    others_doubles: int = 0
    """Warped voices made of each of these."""
    overlap: tuple[float, ...] = (0.2,)
    """Mean shares of the speech in which both speak; the sessions of a step take them in turn."""
    alone: float = 0.1
    """Share of the sessions with one speaker."""
    channel: float = 1.0
    """Share of the sessions heard in a room, with noise, over a line; the others are as they were recorded."""
    exact: float = 0.8
    """Share of the sessions learned with who really speaks; in the others that is made as unsure as a diarizer."""
    heard: float = 0.0
    """Share of the sessions learned with what the diarizer hears, put right where it confuses the two; for a
    recogniser with a kernel."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it learns."""

    steps: int = 2400
    sessions: int = 6
    """Sessions a step."""
    lr: float = 4e-3
    """Of the heads, which have to find the speakers."""
    encoder_rate: float = 0.3
    """The encoder's rate as a share of the heads'; a diarizer has one rate."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 2.0
    tract: float = 0.06
    """Deviation of the log factor of vocal-tract-length perturbation on a recogniser's features."""
    average: float = 0.995
    """Decay of the moving average of the weights, which is what is kept."""
    curriculum: tuple[tuple[float, float], ...] = ((2.5, 0.2), (4.0, 1.0))
    """(Longest session in seconds, share of the training up to which it holds)."""
    save_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """digits.yaml, and diarizer.yaml."""

    start: str
    """A recogniser of digits that has not heard the speakers who are tested on."""
    data: DataConfig
    output: str = "runs/multispeaker"
    diarizer: str = "diarizer-small"
    """Becomes part of the checkpoint; does not learn, and hears some of the sessions (`data.heard`)."""
    fresh: bool = False
    """Whether the encoder of the diarizer that diarizer.py teaches begins anew."""

    def __post_init__(self) -> None:
        if self.data.heard > 0 and self.speakers != 2:
            raise ConfigError(f"data.heard={self.data.heard} puts two speakers right, not {self.speakers}")

    kernel: KernelConfig | None = field(default_factory=KernelConfig)
    """null trains the same without the speaker kernel; a diarizer has none."""
    speakers: int = 2
    training: TrainingConfig = field(default_factory=TrainingConfig)


class Maker:
    """Batches of sessions, each of a seed of its own; what is said and heard does not depend on the kernel."""

    def __init__(
        self, recipe: Recipe, batches: MakeMultispeakerBatch, diarizer: SortformerModel | None = None
    ) -> None:
        """`diarizer` is who hears `data.heard` of the sessions."""
        data, seed = recipe.data, recipe.training.seed
        speakers = load_fsdd(Path(data.fsdd))
        for name in data.test:
            del speakers[name]
        cache = Path(data.cache) if data.cache else None
        real = real_voices(speakers, data.doubles, seed, cache)
        made = synthesised_voices(data.synthesised, seed, cache)
        print(f"{len(speakers)} speakers, {len(real)} warped voices, {len(made)} synthesised", flush=True)
        self.data, self.batches, self.diarizer, self.seed = data, batches, diarizer, seed
        self.groups = [(1 - data.synthesised_share, real), (data.synthesised_share, made)]
        noises = Path(data.rir_noise) if data.rir_noise else None
        around = Surroundings.load(noises, torch.Generator().manual_seed(seed))
        self.channel = StringMaker(self.groups, around, batches.tokenizer, seed)

    def batch(self, step: int, count: int, seconds: float) -> MultispeakerBatch:
        """The batch of a step: `count` sessions of up to so many seconds."""
        return self.made(step, count, seconds)[1]

    def made(self, step: int, count: int, seconds: float) -> tuple[list[Session], MultispeakerBatch]:
        """The sessions of a step as they were made, and their batch as it is heard."""
        rng = random.Random(f"{self.seed} step {step}")
        draw = np.random.default_rng(rng.getrandbits(32))
        sessions, unsure = [], []
        for number in range(count):
            speakers = 1 if rng.random() < self.data.alone else 2
            overlaps = self.data.overlap if speakers == 2 else (0.0,)
            config = plan(seconds, speakers, overlaps[(step * count + number) % len(overlaps)])
            session, _ = make(
                self._voices(speakers, rng), config, rng, varied=True,
                columns=self.batches.speakers, name=f"{step}-{number}",
            )  # fmt: skip
            sessions.append(session)
            unsure.append(rng.random() >= self.data.exact)
        batch = self.batches.collated(sessions)
        heard = replace(batch, speech=replace(batch.speech, signal=self._heard(batch.speech, rng)))
        listened = [self.diarizer is not None and rng.random() < self.data.heard for _ in sessions]
        activity = self._found(heard, torch.tensor(listened))
        for row, session in enumerate(sessions):
            if unsure[row] and not listened[row]:
                activity[row, : len(session.activity)] = torch.from_numpy(corrupted(session.activity, draw))
        return sessions, replace(heard, activity=activity)

    def _heard(self, speech: SpeechBatch, rng: random.Random) -> Tensor:
        """The signals over their channels."""
        self.channel.reseed(rng.getrandbits(32))
        signal, lengths, share = speech.signal.clone(), speech.signal_lengths, self.data.channel
        rows = [row for row in range(len(signal)) if share >= 1 or rng.random() < share]
        if rows:
            signal[rows] = self.channel.heard(signal[rows], lengths[rows])
        return signal

    def _found(self, batch: MultispeakerBatch, rows: Tensor) -> Tensor:
        """The activity [B, T, 2] of a batch: in these rows [B] what the diarizer hears, put right."""
        activity, speech = batch.activity.clone(), batch.speech
        if self.diarizer is None or not rows.any():
            return activity
        rate = self.diarizer.sample_rate
        lengths = speech.signal_lengths[rows] * rate // RATE
        with torch.inference_mode():
            found = self.diarizer(resampled(speech.signal[rows], rate), lengths).probabilities
        for row, probabilities in zip(rows.nonzero()[:, 0].tolist(), found.numpy()):
            frames = min(int(batch.activity_lengths[row]), len(probabilities))
            true = activity[row, :frames].numpy()
            activity[row, :frames] = torch.from_numpy(put_right(probabilities[:frames, :2], true).copy())
        return activity

    def _voices(self, count: int, rng: random.Random) -> list[Voice]:
        """Voices of different people."""
        chosen: dict[str, Voice] = {}
        while len(chosen) < count:
            voices = rng.choices([voices for _, voices in self.groups], [share for share, _ in self.groups])[
                0
            ]
            voice = rng.choice(voices)
            chosen.setdefault(voice.name.split("/")[0].split()[0], voice)
        return list(chosen.values())


def train(recipe: Recipe) -> MultispeakerModel:
    """Train, or go on with, the recipe's run; returns the model with the averaged recogniser and the diarizer."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.training.seed)
    config, options = recipe.training, {"speakers": recipe.speakers, "kernel": recipe.kernel}
    model = MultispeakerModel.of(beginner(recipe), **options).train()
    recogniser = model.recogniser
    average = averaged(recogniser, config)
    _perturb_tracts(recogniser, config.tract)
    task = MultispeakerTask(model, OptimConfig(), MultispeakerTaskConfig(ground_truth=1.0))
    diarizer = aronnax.load(recipe.diarizer, device="cpu")
    assert isinstance(diarizer, SortformerModel)
    maker = Maker(recipe, task.batch_maker(), None if recipe.kernel is None else diarizer)
    encoder = list(recogniser.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    heads = [parameter for parameter in recogniser.parameters() if id(parameter) not in known]
    groups = [{"params": heads, "share": 1.0}, {"params": encoder, "share": config.encoder_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)

    def losses(step: int, seconds: float) -> dict[str, Tensor]:
        return task.losses(maker.batch(step, config.sessions, seconds))

    learn(config, recipe.output, {"model": recogniser, "optimizer": optimizer}, average, losses)
    return MultispeakerModel.of(average.module, diarizer, **options).eval()


def beginner(recipe: Recipe) -> SpeechRecognizer:
    """The recogniser that training starts from, with speaker tokens."""
    loaded = aronnax.load(recipe.start, device="cpu")
    assert isinstance(loaded, SpeechRecognizer)
    return with_speaker_tokens(loaded, [f"<|spltoken{number}|>" for number in range(recipe.speakers)])


def averaged(module: nn.Module, config: TrainingConfig) -> AveragedModel:
    """The moving average of a module's weights."""
    return AveragedModel(module, multi_avg_fn=_running_average(config.average), use_buffers=True)


def learn(
    config: TrainingConfig,
    output: str,
    parts: dict[str, Any],
    average: AveragedModel,
    losses: Callable[[int, float], dict[str, Tensor]],
) -> None:
    """All steps that are left: `losses` are those of a step with sessions of so many seconds.

    `parts` are what a state is made of beside the average: the model and its optimizer, whose groups have a `share`
    of the learning rate.
    """
    parts, first, state_file = {**parts, "average": average}, 0, Path(output) / "state.pt"
    model, optimizer = parts["model"], parts["optimizer"]
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state.pop("step")
        for name, values in state.items():
            parts[name].load_state_dict(values)
        print(f"going on from step {first}", flush=True)
    started, sums = time.monotonic(), {}
    for step in range(first, config.steps):
        seconds = next(longest for longest, until in config.curriculum if step < until * config.steps)
        found = losses(step, seconds)
        optimizer.zero_grad()
        found["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * _learning_rate(config, step)
        optimizer.step()
        average.update_parameters(model)
        sums = {name: sums.get(name, 0.0) + value.item() for name, value in found.items()}
        if (step + 1) % 50 == 0:
            means = " ".join(f"{name} {value / 50:.3f}" for name, value in sums.items())
            spent = f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of processor time"
            print(f"step {step + 1}, {spent}: {means}", flush=True)
            sums = {}
        if (step + 1) % config.save_every == 0:
            _save_state(state_file, step + 1, parts)


def _learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to 2 %."""
    falling = 0.5 + 0.5 * math.cos(math.pi * step / config.steps)
    return config.lr * min(1.0, (step + 1) / config.warmup) * max(0.02, falling)


def _running_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """An exponential average that forgets its first steps sooner."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return update


def _perturb_tracts(recogniser: SpeechRecognizer, deviation: float) -> None:
    """Stretch the frequency axis of each row's features at random, while the recogniser trains."""

    def stretch(module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features, lengths = output
        if not module.training:
            return output
        factor = (deviation * torch.randn(len(features))).clamp(-3 * deviation, 3 * deviation).exp()
        return warp_bands(features, factor, RATE), lengths

    recogniser.preprocessor.register_forward_hook(stretch)


def _save_state(path: Path, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
    """All that resuming needs, replaced in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, f"{path}.new")
    Path(f"{path}.new").replace(path)


def main(
    overrides: Sequence[str], train: Callable[[Recipe], Model] = train, file: str = "digits.yaml"
) -> None:
    """Train, and leave the checkpoint in `output`/model."""
    recipe = load_yaml(Recipe, Path(__file__).with_name(file), overrides)
    train(recipe).save_pretrained(Path(recipe.output) / "model", dtype=torch.float16)


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
    else:
        main(sys.argv[1:])
