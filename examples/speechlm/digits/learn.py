"""Train a small speech language model on spoken digits: `python examples/speechlm/digits/learn.py --help`.

    python examples/speechlm/digits/learn.py salm data.fsdd=FSDD data.rir_noise=RIR_NOISE output=runs/digits-salm
    python examples/speechlm/digits/learn.py bestow ... data.hold_out=theo encoder=runs/digits/theo/model

The first word names a YAML beside this file: salm, bestow, vtb. Every option in it can be given as `name=value`. What
is interrupted goes on at its last state. With `data.hold_out` the result is tested on that speaker (`measure.py`).
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Voices and strings are those of the recipe of the digits recogniser.
sys.path.insert(0, str(Path(__file__).parents[2] / "asr" / "digits"))

import torch
from heard import ChatMaker, Shares, spoken_questions
from strings import StringMaker
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from train import DataConfig, save_state, sources

import aronnax
from aronnax.collections.llm.loss import answer_cross_entropy
from aronnax.collections.speechlm.conversation.batch import ConversationBatch
from aronnax.collections.speechlm.model import SpeechLM
from aronnax.collections.speechlm.training import TrainConfig, build_model
from aronnax.core.config import from_dict, load_yaml

FILLER = "<|filler|>"
COUNTED = 12
"""Words that are counted in a recording."""
NEAR = 12.0
"""Score of a frame that equals a word's embedding."""


@dataclass(frozen=True)
class Learning:
    """How it learns."""

    steps: int = 1200
    batch_size: int = 24
    lr: float = 2e-3
    """Of adapter, projection and LoRA, or of whatever else is new."""
    encoder_rate: float = 0.0
    """The encoder's rate as a share of it; 0 leaves the encoder as it is."""
    llm_rate: float = 0.0
    """Likewise the language model's own weights."""
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.99
    """Decay of the moving average of the weights, which is what is kept."""
    spelling: float = 0.3
    """Weight of a CTC loss that has frames look like the embeddings of the words heard; it adds no parameter."""
    counting: float = 0.0
    """Weight of a CTC loss that has frames tell how many words were said before; its head is not kept."""
    longest: tuple[tuple[int, float], ...] = ((3, 0.2), (6, 1.0))
    """(Longest string in digits, share of the steps up to which it holds)."""


@dataclass(frozen=True)
class Recipe:
    """The whole recipe; see salm.yaml."""

    data: DataConfig
    output: str
    model: dict[str, Any]
    """The model's type and options, as in a training YAML."""
    encoder: str = "digits"
    """A `digits` model: its front end and encoder are the ears."""
    llm: str = "digits-lm"
    learning: Learning = field(default_factory=Learning)
    shares: Shares = field(default_factory=Shares)
    questions: int = 2000
    """Questions that espeak-ng asks aloud, where any are."""
    references: bool = True
    """Whether the checkpoint names `encoder` and `llm` instead of holding their weights."""
    card: str = ""
    """A file beside this one that becomes the model card."""
    threads: int = 1
    seed: int = 0


def spelling_loss(model: SpeechLM, frames: list[Tensor], said: list[str]) -> Tensor:
    """CTC of the words of each recording, scored by how near its frames [T, D] are to their embeddings."""
    table = model.llm.embed(torch.arange(model.llm.vocab_size)).detach()
    scale = NEAR / table.square().sum(1).mean()
    blank = model.text.id_of(FILLER)
    words = [model.text.encode(text) for text in said]
    scores = (scale * pad_sequence(frames, batch_first=True) @ table.T).log_softmax(-1)
    lengths = torch.tensor([len(row) for row in frames])
    targets = torch.tensor([token for row in words for token in row])
    counts = torch.tensor([len(row) for row in words])
    loss = F.ctc_loss(scores.transpose(0, 1), targets, lengths, counts, blank, "none", zero_infinity=True)
    return loss.sum() / counts.sum().clamp(min=1)


class Counting(nn.Linear):
    """Tells the first word from the second and so on, for a reader that has nothing else to find its place by."""

    def __init__(self, width: int) -> None:
        super().__init__(width, COUNTED + 1)

    def loss(self, frames: list[Tensor], said: list[str]) -> Tensor:
        """CTC of the words' numbers, by the frames [T, D] of each recording."""
        scores = self(pad_sequence(frames, batch_first=True)).log_softmax(-1)
        counts = torch.tensor([min(len(text.split()), COUNTED) for text in said])
        numbers = torch.arange(1, COUNTED + 1).expand(len(said), -1)
        lengths = torch.tensor([len(row) for row in frames])
        loss = F.ctc_loss(scores.transpose(0, 1), numbers, lengths, counts, 0, "none", zero_infinity=True)
        return loss.sum() / counts.sum().clamp(min=1)


class Ears:
    """Notes the frames that a model hears while it computes its loss."""

    def __init__(self, model: SpeechLM) -> None:
        self.frames: list[Tensor] = []
        model.perception.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        frames, lengths = output
        self.frames += [row[:length] for row, length in zip(frames, lengths.tolist())]

    def take(self) -> list[Tensor]:
        """The frames since the last call."""
        found, self.frames = self.frames, []
        return found


class Average(nn.Module):
    """Moving average of what learns; what does not stays bit for bit as it is."""

    def __init__(self, model: SpeechLM, decay: float, learns: Callable[[str], bool]) -> None:
        super().__init__()
        self.decay, self.count = decay, 0
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.followed = {name: t for name, t in tensors.items() if t.is_floating_point() and learns(name)}
        for name, tensor in self.followed.items():
            self.register_buffer(name.replace(".", "/"), tensor.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in; a young average forgets its beginning."""
        self.count += 1
        keep = min(self.decay, self.count / (self.count + 10))
        for name, tensor in self.followed.items():
            self.get_buffer(name.replace(".", "/")).lerp_(tensor, 1 - keep)

    @torch.no_grad()
    def give(self) -> None:
        """Put the average in place of the weights."""
        for name, tensor in self.followed.items():
            tensor.copy_(self.get_buffer(name.replace(".", "/")))


def share_of(name: str, learning: Learning) -> float:
    """The share of the rate at which a parameter learns; 0 for what is frozen."""
    if name.startswith("perception.encoder."):
        return learning.encoder_rate
    if name.startswith("llm.") and "lora_" not in name:
        return learning.llm_rate
    return 0.0 if name.startswith("perception.preprocessor.") else 1.0


def groups(model: SpeechLM, learning: Learning) -> list[dict[str, Any]]:
    """Parameters that learn, with their share of the rate; the others are frozen."""
    shares: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        share = share_of(name, learning)
        parameter.requires_grad_(share > 0)
        if share > 0:
            shares.setdefault(share, []).append(parameter)
    return [{"params": found, "share": share} for share, found in shares.items()]


def rate(learning: Learning, step: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    if step < learning.warmup:
        return learning.lr * (step + 1) / learning.warmup
    done = (step - learning.warmup) / max(1, learning.steps - learning.warmup)
    return learning.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Lessons:
    """The losses of a batch: what is answered, and beside it how frames look and count."""

    def __init__(self, model: SpeechLM, learning: Learning) -> None:
        self.model, self.learning = model, learning
        self.ears, self.counting = Ears(model), Counting(model.llm.width)

    def __call__(self, batch: ConversationBatch, said: list[str]) -> dict[str, Tensor]:
        """Losses by name; the words of the batch's recordings are `said`."""
        hidden, labels = self.model.training_hidden(batch)
        losses = {"answers": answer_cross_entropy(hidden, labels, self.model.llm.logits)[0]}
        frames = self.ears.take()
        if frames and self.learning.spelling:
            losses["spelling"] = spelling_loss(self.model, frames, said)
        if frames and self.learning.counting:
            losses["counting"] = self.counting.loss(frames, said)
        return losses

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """What is minimised."""
        weights = {"answers": 1.0, "spelling": self.learning.spelling, "counting": self.learning.counting}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def learn(model: SpeechLM, recipe: Recipe, maker: ChatMaker, output: Path) -> SpeechLM:
    """Train, resuming where `output` holds a state; returns the model with its averaged weights."""
    learning, lessons = recipe.learning, Lessons(model, recipe.learning)
    optimizer = torch.optim.AdamW(
        [*groups(model, learning), {"params": list(lessons.counting.parameters()), "share": 1.0}],
        betas=(0.9, 0.98),
        weight_decay=learning.weight_decay,
    )
    average = Average(model, learning.average, lambda name: share_of(name, learning) > 0)
    parts = {"model": model, "average": average, "counting": lessons.counting, "optimizer": optimizer}
    first = average.count = restore(output / "state.pt", parts)
    maker.reseed(recipe.seed + first)
    batches = maker.batches(learning.batch_size)
    started, sums = time.monotonic(), Counter[str]()
    for step in range(first, learning.steps):
        in_training_mode(model, learning)
        done = step / learning.steps
        maker.strings.longest = next(most for most, until in learning.longest if done < until)
        losses = lessons(*next(batches))
        optimizer.zero_grad()
        lessons.weigh(losses).backward()
        nn.utils.clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]], learning.clip
        )
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate(learning, step)
        optimizer.step()
        average.update()
        sums.update({name: loss.item() for name, loss in losses.items()})
        if (step + 1) % 50 == 0:
            means = " ".join(f"{name} {value / 50:.3f}" for name, value in sums.items())
            spent = f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of processor time"
            print(f"step {step + 1} {spent} {means}", flush=True)
            sums.clear()
        if (step + 1) % 200 == 0 and step + 1 < learning.steps:
            save_state(output / "state.pt", step + 1, parts)
    average.give()
    return model.eval()


def restore(path: Path, parts: dict[str, Any]) -> int:
    """The steps already done, with everything as it was after them; 0 where nothing was saved."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    step = int(state.pop("step"))
    for name, values in state.items():
        parts[name].load_state_dict(values)
    return step


def in_training_mode(model: SpeechLM, learning: Learning) -> None:
    """Training mode, but for the parts that are as they were."""
    model.train()
    if not learning.encoder_rate:
        model.perception.encoder.eval()


def start(recipe: Recipe) -> SpeechLM:
    """The language model with the ears of the encoder and a fresh way from one to the other."""
    learning, model = recipe.learning, dict(recipe.model)
    if recipe.references:
        rests = {
            "llm.": (recipe.llm, learning.llm_rate),
            "perception.encoder.": (recipe.encoder, learning.encoder_rate),
        }
        model["references"] = {prefix: name for prefix, (name, learns) in rests.items() if not learns}
    parts = {"llm": recipe.llm, "perception": recipe.encoder}
    config = {"model": model, "init_from": parts, "output": recipe.output, "data": {}}
    return build_model(from_dict(TrainConfig, config))


def train(recipe: Recipe) -> Path:
    """Train what the recipe describes; the checkpoint's folder."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    model = start(recipe)
    tokens = aronnax.load(recipe.encoder, device="cpu").tokenizer
    strings = StringMaker(*sources(recipe.data, recipe.seed), tokens, recipe.seed)
    asked = spoken_questions(recipe.questions, recipe.seed) if recipe.shares.spoken else ()
    learned = learn(model, recipe, ChatMaker(strings, model.text, recipe.shares, recipe.seed, asked), output)
    card = Path(__file__).with_name(recipe.card).read_text() if recipe.card else None
    return learned.save_pretrained(output / "model", card=card, dtype=torch.float16)


def main(arguments: list[str]) -> Iterator[str]:
    """Train, and test on the speaker held out."""
    name, *options = arguments
    recipe = load_yaml(Recipe, Path(__file__).with_name(f"{name}.yaml"), options)
    folder = train(recipe)
    yield f"the model is in {folder}"
    if recipe.data.hold_out:
        from measure import measure

        measure(folder, recipe.data.fsdd, recipe.data.hold_out, Path(recipe.output) / "results.json")


if __name__ == "__main__":
    if len(sys.argv) < 2 or "--help" in sys.argv:
        sys.exit(__doc__)
    for line in main(sys.argv[1:]):
        print(line, flush=True)
