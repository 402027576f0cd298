"""Train the prompted digit recogniser; `python examples/asr/digits_canary/train.py --help` and docs/digits_canary.md
say how.

Every option of digits_canary.yaml can be given as `name=value`, for example
`python examples/asr/digits_canary/train.py data.hold_out=theo start=runs/digits/theo/model output=runs/canary/theo`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# The corpus, and a few pieces of the training, are those of the recipe `digits`; its `train` is imported below.
sys.path.insert(0, str(Path(__file__).parents[1] / "digits"))

import torch
from answers import digit_tokenizer
from batches import LENGTHS, AskedBatch, NoisyStringMaker, prompted_batches
from measure import measure
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from train import DataConfig, learning_rate, perturb_tracts, running_average, save_state, sources

import aronnax
from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.canary.loss import smoothed_cross_entropy, targets
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.ctc.head import CTCHead
from aronnax.collections.asr.ctc.loss import ctc_loss
from aronnax.collections.asr.finetune import take_parts
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.core.config import load_yaml


@dataclass(frozen=True)
class Stage:
    """One pass of warm-up and cosine descent."""

    steps: int = 1000
    batch_size: int = 32
    prompts: int = 4
    """Ways in which each recording is asked for, of the eight."""
    lr: float = 1.5e-3
    """Of the decoder."""
    encoder_rate: float = 0.4
    """The encoder's rate as a share of the decoder's."""
    frozen: int = 0
    """Steps at the beginning in which only the decoder learns."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 2.0
    tract: float = 0.06
    """Deviation of the log factor of vocal-tract-length perturbation on the features."""
    average: float = 0.995
    """Decay of the exponential moving average of the weights, which is what is kept."""
    label_smoothing: float = 0.05
    ctc: float = 0.3
    """Weight of the CTC loss of the English words, on the encoder; its head is not kept."""
    counting: float = 0.3
    """Weight of the CTC loss of the words' ordinal numbers, on the encoder; its head is not kept either."""
    noise_share: float = 0.0
    """Share of the recordings in which nobody speaks."""
    curriculum: tuple[tuple[int, float], ...] = ((5, 0.2), (12, 1.0))
    """(Longest string in digits, share of the stage up to which it holds)."""


@dataclass(frozen=True)
class Recipe:
    """digits_canary.yaml."""

    model: CanaryConfig
    data: DataConfig
    output: str
    start: str
    """A `digits` model that has not heard the speaker held out: its encoder and CTC head are taken."""
    speech: Stage = field(default_factory=Stage)
    noise: Stage = field(default_factory=Stage)
    """The second stage, which teaches to write nothing where nobody speaks."""
    threads: int = 1
    seed: int = 0


class Learner(nn.Module):
    """What learns: the model, and beside it the CTC head of its start and one that counts the words.

    The encoder knows no absolute place. The decoder has to find the third word after the second all the same, even
    when both are "four": an encoder that counts helps it to.
    """

    def __init__(self, model: CanaryModel, start: SpeechRecognizer) -> None:
        super().__init__()
        self.model, self.ctc = model, start.ctc_decoder
        self.counting = CTCHead(model.config.encoder.d_model, len(LENGTHS))

    def losses(self, batch: AskedBatch, smoothing: float, encoder_learns: bool) -> dict[str, Tensor]:
        """Cross-entropy per token of the answers, and CTC per word, of the words and of their numbers."""
        model, heard, asked = self.model, batch.heard, batch.asked
        with torch.set_grad_enabled(encoder_learns):
            output = SpeechRecognizer.encode(model, heard.signal, heard.signal_lengths)
        numbers = torch.arange(heard.tokens.shape[1]).expand_as(heard.tokens)
        by_word = {
            name: ctc_loss(
                head(output.states), output.lengths, said, heard.token_lengths, reduction="mean_volume"
            )
            for name, head, said in (("ctc", self.ctc, heard.tokens), ("counting", self.counting, numbers))
        }
        states = model.encoder_decoder_proj(output.states)[batch.owner]
        inputs, labels, counts = targets(
            asked.tokens, asked.token_lengths, asked.prompt_lengths, mask_prompt=True
        )
        log_probs = model.forward_tokens(states, output.lengths[batch.owner], inputs)
        return {"aed": smoothed_cross_entropy(log_probs, labels, counts, smoothing), **by_word}

    def groups(self, stage: Stage) -> list[dict[str, object]]:
        """Parameters with their share of the learning rate."""
        slow = [*self.model.encoder.parameters(), *self.ctc.parameters()]
        known = {id(parameter) for parameter in slow}
        fast = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": slow, "share": stage.encoder_rate}, {"params": fast, "share": 1.0}]


def learn(learner: Learner, stage: Stage, maker: NoisyStringMaker, folder: Path, seed: int) -> Learner:
    """Train one stage, resuming where `folder` holds a state; returns the average."""
    average = AveragedModel(learner, multi_avg_fn=running_average(stage.average), use_buffers=True)
    optimizer = torch.optim.AdamW(learner.groups(stage), betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    parts, first = {"learner": learner, "average": average, "optimizer": optimizer}, 0
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        first = state.pop("step")
        for name, values in state.items():
            parts[name].load_state_dict(values)
    maker.reseed(seed + first)
    maker.noise_share = stage.noise_share
    batches = prompted_batches(maker, learner.model, stage.batch_size, stage.prompts, seed + first)
    started, sums = time.monotonic(), {}
    learner.train()
    for step in range(first, stage.steps):
        maker.longest = next(longest for longest, until in stage.curriculum if step < until * stage.steps)
        by_head = learner.losses(next(batches), stage.label_smoothing, step >= stage.frozen)
        optimizer.zero_grad()
        (by_head["aed"] + stage.ctc * by_head["ctc"] + stage.counting * by_head["counting"]).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), stage.clip)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(stage, step)
        optimizer.step()
        average.update_parameters(learner)
        sums = {name: sums.get(name, 0.0) + value.item() for name, value in by_head.items()}
        if (step + 1) % 50 == 0:
            means = " ".join(f"{name} {value / 50:.3f}" for name, value in sums.items())
            print(f"step {step + 1} {time.monotonic() - started:.0f} s {means}", flush=True)
            sums = {}
        if (step + 1) % 250 == 0 and step + 1 < stage.steps:
            save_state(folder / "state.pt", step + 1, parts)
    print(f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of processor time", flush=True)
    return average.module.eval()


def train(recipe: Recipe) -> None:
    """Both stages; the models are left in `output`/speech/model and `output`/model."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    output, card = Path(recipe.output), Path(__file__).with_name("card.md").read_text()
    start = aronnax.load(recipe.start, device="cpu")
    model = CanaryModel(recipe.model, digit_tokenizer())
    for line in take_parts(model, {"encoder": recipe.start}):
        print(line, flush=True)
    perturb_tracts(model, recipe.speech.tract)
    learner, maker = Learner(model, start), None
    for name, stage in (("speech", recipe.speech), ("noise", recipe.noise)):
        folder = output / name
        if (folder / "learner.pt").exists():
            learner.load_state_dict(torch.load(folder / "learner.pt", weights_only=True))
            continue
        maker = maker or NoisyStringMaker(
            *sources(recipe.data, recipe.seed), start.tokenizer, recipe.seed, lengths=LENGTHS
        )
        learned = learn(learner, stage, maker, folder, recipe.seed)
        learner.load_state_dict(learned.state_dict())
        learned.model.save_pretrained(folder / "model", card=card, dtype=torch.float16)
        torch.save(learned.state_dict(), folder / "learner.pt")
        if recipe.data.hold_out:
            measure(folder / "model", recipe.data.fsdd, recipe.data.hold_out, folder)


def main() -> None:
    """Train, and test on the speaker held out, before the noise stage and after it."""
    if "--help" in sys.argv:
        print(__doc__)
        return
    train(load_yaml(Recipe, Path(__file__).with_name("digits_canary.yaml"), sys.argv[1:]))


if __name__ == "__main__":
    main()
