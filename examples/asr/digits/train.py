"""Train the spoken-digit recogniser; `python examples/asr/digits/train.py --help` and docs/digits.md say how.

Every option of digits.yaml can be given as `name=value`, for example
`python examples/asr/digits/train.py data.hold_out=theo output=runs/theo`.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from evaluate import evaluate
from strings import StringMaker, Surroundings
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from voices import RATE, WORDS, Voice, load_fsdd, real_voices, synthesised_voices

from aronnax.collections.asr.hybrid.loss import losses
from aronnax.collections.asr.hybrid.model import HybridModel, HybridModelConfig
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.audio.warp import warp_bands
from aronnax.collections.common.text import SentencePieceTokenizer
from aronnax.core.config import load_yaml


@dataclass(frozen=True)
class DataConfig:
    """What the model hears."""

    fsdd: str
    """Folder of the FSDD recordings with their manifest."""
    rir_noise: str | None = None
    """Folder of recorded room responses and noises; None for simulated ones alone."""
    hold_out: str | None = None
    """Speaker of FSDD to train without and to test on."""
    test_split: bool = True
    """Whether the takes of FSDD's own test split are trained on."""
    cache: str | None = None
    """Folder where the voices are left for the next training."""
    doubles: int = 16
    """Warped voices made of each speaker."""
    synthesised: int = 500
    """espeak-ng voices, each used as it is and warped."""
    synthesised_share: float = 0.35
    """Share of the strings they speak; with 1.0 no recording is used at all."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it learns."""

    steps: int = 1500
    batch_size: int = 32
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 2.0
    tract: float = 0.08
    """Deviation of the log factor of vocal-tract-length perturbation on the features."""
    average: float = 0.995
    """Decay of the exponential moving average of the weights, which is what is kept."""
    sigma: float = 0.02
    """TDT's under-normalisation of the token scores."""
    curriculum: tuple[tuple[int, float], ...] = ((2, 0.1), (4, 0.35), (7, 1.0))
    """(Longest string in digits, share of the training up to which it holds)."""
    threads: int = 1
    seed: int = 0
    start: str | None = None
    """Checkpoint folder to start from; None for random weights."""


@dataclass(frozen=True)
class Recipe:
    """digits.yaml."""

    model: HybridModelConfig
    data: DataConfig
    training: TrainingConfig
    output: str


def word_tokenizer() -> SentencePieceTokenizer:
    """One piece a digit word."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 10),
        model_writer=model,
        model_type="word",
        vocab_size=1 + len(WORDS),
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


def sources(data: DataConfig, seed: int) -> tuple[list[tuple[float, list[Voice]]], Surroundings]:
    """Warped speakers and synthesised voices with their shares; rooms and noises."""
    splits = ("train", "test") if data.test_split else ("train",)
    speakers = load_fsdd(Path(data.fsdd), splits) if data.synthesised_share < 1 else {}
    speakers.pop(data.hold_out or "", None)
    cache = Path(data.cache) if data.cache else None
    real = real_voices(speakers, data.doubles, seed, cache)
    made = synthesised_voices(data.synthesised, seed, cache)
    around = Surroundings.load(
        Path(data.rir_noise) if data.rir_noise else None, torch.Generator().manual_seed(seed)
    )
    print(f"{len(speakers)} speakers, {len(real)} warped voices, {len(made)} synthesised", flush=True)
    return [(1 - data.synthesised_share, real), (data.synthesised_share, made)], around


def perturb_tracts(model: SpeechRecognizer, deviation: float) -> None:
    """Stretch the frequency axis of each row's features at random, while the model trains."""

    def stretch(module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features, lengths = output
        if not module.training:
            return output
        factor = (deviation * torch.randn(len(features))).clamp(-3 * deviation, 3 * deviation).exp()
        return warp_bands(features, factor, RATE), lengths

    model.preprocessor.register_forward_hook(stretch)


def running_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """An exponential average that forgets its first steps sooner."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return update


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to 2 %."""
    return (
        config.lr
        * min(1.0, (step + 1) / config.warmup)
        * max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))
    )


def train(recipe: Recipe) -> HybridModel:
    """Train, resuming where `output` holds a state, and return the averaged model."""
    config, output = recipe.training, Path(recipe.output)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = HybridModel(recipe.model, word_tokenizer())
    if config.start:
        model.load_state_dict(HybridModel.from_pretrained(config.start, device="cpu").state_dict())
    maker = StringMaker(*sources(recipe.data, config.seed), model.tokenizer, config.seed)
    average = AveragedModel(model, multi_avg_fn=running_average(config.average), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay)
    parts, first = {"model": model, "average": average, "optimizer": optimizer}, 0
    state_file = output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state.pop("step")
        for name, values in state.items():
            parts[name].load_state_dict(values)
        maker.reseed(config.seed + first)
    perturb_tracts(model, config.tract)
    batches, started, sums = maker.batches(config.batch_size), time.monotonic(), {}
    for step in range(first, config.steps):
        maker.longest = next(longest for longest, until in config.curriculum if step < until * config.steps)
        batch = next(batches)
        by_head = losses(model, model.encode(batch.signal, batch.signal_lengths), batch, sigma=config.sigma)
        share = recipe.model.ctc_weight
        loss = share * by_head["ctc"] + (1 - share) * by_head["tdt"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        average.update_parameters(model)
        sums = {name: sums.get(name, 0.0) + value.item() for name, value in by_head.items()}
        if (step + 1) % 50 == 0:
            means = " ".join(f"{name} {value / 50:.3f}" for name, value in sums.items())
            print(f"step {step + 1} {time.monotonic() - started:.0f} s {means}", flush=True)
            sums = {}
        if (step + 1) % 250 == 0 and step + 1 < config.steps:
            save_state(state_file, step + 1, parts)
    print(f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of processor time", flush=True)
    return average.module.eval()


def save_state(path: Path, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
    """All that resuming needs, replaced in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, f"{path}.new")
    Path(f"{path}.new").replace(path)


def main() -> None:
    """Train, store the checkpoint, and test on the speaker held out."""
    if "--help" in sys.argv:
        print(__doc__)
        return
    recipe = load_yaml(Recipe, Path(__file__).with_name("digits.yaml"), sys.argv[1:])
    model = train(recipe)
    card = Path(__file__).with_name("card.md").read_text()
    model.save_pretrained(Path(recipe.output) / "model", card=card, dtype=torch.float16)
    if recipe.data.hold_out:
        evaluate(Path(recipe.output) / "model", recipe.data.fsdd, recipe.data.hold_out, recipe.output)


if __name__ == "__main__":
    main()
