"""Train the small language model `digits-lm` on made conversations: a quarter of an hour of one core.

    python examples/speechlm/digits/train_lm.py OUT [START]

OUT becomes a checkpoint that `aronnax.load` opens, OUT/results.json holds its exact answers by kind of question on
digit strings that were never trained on. START is a checkpoint that has had the first of the two passes.

The model is made to be a host of speech later: in half of the turns the digit words are stretched as an encoder's
frames are (repeated, with fillers between), their embeddings blended with the filler's and made noisy.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import chats
import questions
import torch
from tokenizer import tokenizer_files
from torch import Tensor
from torch.nn import functional

from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.model import LanguageModel, LanguageModelConfig

AUDIO = "<|audio|>"
CARD = Path(__file__).with_name("digits_lm.md")

SETTINGS = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.08,
}
TOKENS, SEED, POOL = 1536, 2026, 512
MATRIX_LR, OTHER_LR, WARM_UP, COOL_DOWN = 4e-3, 3e-3, 50, 0.45
NOISE, BLEND = 0.35, 0.4


@dataclass(frozen=True)
class Stage:
    """What is learned for some steps."""

    steps: int
    longest: int
    """Digits of the longest string."""
    lengths: tuple[int, ...]
    """Words of a chat, one of which is drawn."""
    frames: float
    """Share of the strings that are written as frames."""
    favoured: tuple[str, ...] = ()
    """Kinds of questions that come three times as often as the others."""
    drills: float = 0.0
    """Share of rows that are no chats but drills in looking up."""


PASSES = (
    (
        Stage(200, 2, (1,), 0.0),
        Stage(200, 4, (1,), 0.0),
        Stage(400, 6, (1, 1, 1, 40), 0.2),
        Stage(2200, 6, (1, 1, 1, 1, 40, 40, 120), 0.5),
    ),
    (
        Stage(500, 3, (1,), 0.2, favoured=chats.NAMING, drills=0.6),
        Stage(900, 6, (1, 1, 1, 40), 0.4, favoured=chats.NAMING, drills=0.4),
        Stage(1000, 6, (1, 1, 1, 1, 40, 40, 120), 0.5, favoured=chats.NAMING, drills=0.1),
    ),
)
"""Short strings first, then whole chats, and frames. The second pass teaches to look up a digit that is named."""


class Words:
    """Words to ids and back, straight from the vocabulary: what the tokenizer does with such text."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.ids: dict[str, int] = json.loads(files["tokenizer.json"])["model"]["vocab"]
        self.words = {index: word for word, index in self.ids.items()}

    def __call__(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.replace(":", " : ").split()]


class Row:
    """One conversation as ids, which of them are learned, and which stand for something heard."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.learned: list[bool] = []
        self.heard: list[bool] = []

    def add(self, ids: list[int], learned: bool = False, heard: bool = False) -> None:
        self.ids += ids
        self.learned += [learned] * len(ids)
        self.heard += [heard] * len(ids)


def write(turns: list[chats.Turn], words: Words, rng: random.Random, share: float) -> Row:
    """The row of a conversation in the format `digits`."""
    row = Row()
    for turn in turns:
        row.add(words(f"<|user|> {turn.before}"))
        stretched = bool(turn.digits) and rng.random() < share
        said = chats.as_frames(turn.digits, rng) if stretched else turn.digits
        row.add([words.ids[word] for word in said], heard=stretched)
        row.add(words(f"{turn.after} <|end|> <|assistant|>"))
        row.add(words(f"{turn.answer} <|end|>"), learned=True)
    return row


def some_row(words: Words, rng: random.Random, stage: Stage) -> Row:
    """A chat, or a drill."""
    if not stage.drills or rng.random() >= stage.drills:
        turns = chats.chat(rng, rng.choice(stage.lengths), stage.longest, stage.favoured)
        return write(turns, words, rng, stage.frames)
    row = Row()
    if rng.random() < 0.5:
        given, said = chats.recall(rng, stage.longest)
        row.add(words(" ".join(given)))
    else:
        given, said = chats.drill(rng, stage.longest)
        frames = rng.random() < stage.frames
        row.add([words.ids["<|user|>"]])
        row.add(
            [words.ids[word] for word in (chats.as_frames(given, rng) if frames else given)], heard=frames
        )
        row.add(words("<|end|> <|assistant|>"))
    for known, wanted in said:
        row.add(words(known))
        row.add(words(wanted), learned=True)
    return row


def batches(words: Words, rng: random.Random, stage: Stage) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end, each of about as many positions, of conversations about as long as one another."""
    while True:
        rows = [some_row(words, rng, stage) for _ in range(POOL)]
        rows.sort(key=lambda row: len(row.ids))
        made: list[list[Row]] = [[]]
        for row in rows:
            if made[-1] and (len(made[-1]) + 1) * len(row.ids) > TOKENS:
                made.append([])
            made[-1].append(row)
        rng.shuffle(made)
        yield from map(pad, made)


def pad(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, labels (-100 where nothing is learned) and heard [B, U]."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    heard = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        learned = torch.tensor(row.learned)
        labels[place, : len(row.ids) - 1][learned[1:]] = ids[place, 1 : len(row.ids)][learned[1:]]
        heard[place, : len(row.ids)] = torch.tensor(row.heard)
    return ids, labels, heard


def like_frames(embeddings: Tensor, heard: Tensor, filler: Tensor) -> Tensor:
    """Embeddings [B, U, D] with what is heard blended with the filler and made noisy."""
    share = torch.rand(heard.shape) * BLEND
    blended = torch.lerp(embeddings, filler.expand_as(embeddings), share[..., None])
    noise = torch.randn_like(blended) * embeddings.detach().std() * NOISE * torch.rand(len(heard), 1, 1)
    return torch.where(heard[..., None], blended + noise, embeddings)


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, Adam for the embeddings and the norms."""
    named = list(model.named_parameters())
    matrices = [one for name, one in named if one.dim() == 2 and "embed" not in name]
    others = [one for name, one in named if one.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.98), weight_decay=0.0)]


def rate(step: int, steps: int) -> float:
    """A warm-up, a long way at the peak, and down to zero in a straight line."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def train(model: Any, words: Words, number: int) -> None:
    """One pass, stage after stage, from fresh optimizers; prints the loss."""
    torch.manual_seed(SEED + number)
    rng = random.Random(SEED + number)
    both, steps = optimizers(model), sum(stage.steps for stage in PASSES[number])
    shapes = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: rate(step, steps)) for one in both]
    recent: list[float] = []
    step = 0
    for stage in PASSES[number]:
        for ids, labels, heard in islice(batches(words, rng, stage), stage.steps):
            loss = step_loss(model, words, ids, labels, heard)
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for one in (*both, *shapes):
                one.step()
            step += 1
            recent.append(loss.item())
            if step % 100 == 0:
                mean, spent = sum(recent) / len(recent), time.process_time()
                print(f"pass {number + 1}, step {step}: loss {mean:.4f}, {spent:.0f} s", flush=True)
                recent.clear()


def step_loss(model: Any, words: Words, ids: Tensor, labels: Tensor, heard: Tensor) -> Tensor:
    """Cross-entropy of the answers of a batch."""
    filler = model.model.embed_tokens.weight[words.ids[chats.FILLER]]
    embeddings = like_frames(model.model.embed_tokens(ids), heard, filler)
    hidden = model.model(inputs_embeds=embeddings, use_cache=False)[0]
    learned = labels != -100
    return functional.cross_entropy(model.lm_head(hidden[learned]), labels[learned])


@torch.inference_mode()
def answers(model: Any, rows: list[list[int]], words: Words, limit: int = 32) -> list[str]:
    """Greedy answers to prompts, which are padded on the right and grown together."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()) + limit, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    every, end = torch.arange(len(rows)), words.ids["<|end|>"]
    said: list[list[int]] = [[] for _ in rows]
    done = torch.zeros(len(rows), dtype=torch.bool)
    for _ in range(limit):
        hidden = model.model(ids[:, : int(lengths.max())], use_cache=False)[0]
        best = model.lm_head(hidden[every, lengths - 1]).argmax(-1)
        done |= best == end
        if done.all():
            break
        ids[every, lengths] = best
        lengths += 1
        for place, token in enumerate(best.tolist()):
            if not done[place]:
                said[place].append(token)
    return [" ".join(words.words[token] for token in row) for row in said]


def tests(each: int) -> list[list[chats.Turn]]:
    """Conversations whose last answer is asked for: every kind on strings kept for tests, follow-ups, text tasks."""
    rng = random.Random(SEED + 1)
    made = [[chats.new_string(rng, True, kind)] for kind in questions.KINDS for _ in range(each)]
    for _ in range(each * 4):
        first = chats.new_string(rng, True)
        question, right = questions.follow_up(first.digits, rng)
        made.append([first, chats.Turn(question, (), "", right, "follow_up")])
        made.append([chats.new_string(rng, True), chats.new_string(rng, True)])
    for name in questions.TEXT_TASKS:
        for _ in range(each):
            question, right = questions.text_task(rng, name)
            made.append([chats.Turn(question, (), "", right, name)])
    return made


def evaluate(
    model: Any, words: Words, each: int = 100, stretched: bool = False
) -> dict[str, tuple[int, int]]:
    """Exact answers by kind: (right, asked); `stretched` writes strings as frames."""
    rng = random.Random(SEED + 2)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    rows, turns = [], []
    for conversation in tests(each):
        ids: list[int] = []
        for turn in conversation:
            said = chats.as_frames(turn.digits, rng) if stretched and turn.digits else list(turn.digits)
            ids += words(f"<|user|> {turn.before} {' '.join(said)} {turn.after} <|end|> <|assistant|>")
            if turn is not conversation[-1]:
                ids += words(f"{turn.answer} <|end|>")
        rows.append(ids)
        turns.append(conversation[-1])
    for start in range(0, len(rows), 128):
        for turn, said in zip(turns[start:], answers(model, rows[start : start + 128], words)):
            asked[turn.kind] += 1
            right[turn.kind] += said == turn.answer
    return {kind: (right[kind], asked[kind]) for kind in asked}


def fresh() -> LanguageModel:
    """The model before training."""
    files = tokenizer_files()
    words = Words(files).ids
    ends = {"bos_token_id": None, "eos_token_id": words["<|end|>"], "pad_token_id": words["<pad>"]}
    backbone = BackboneConfig("llama", {"vocab_size": len(words), **SETTINGS, **ends})
    return LanguageModel.build(
        LanguageModelConfig(backbone, prompt_format="digits", audio_token=AUDIO), files
    )


def measured(model: Any, words: Words) -> dict[str, Any]:
    """Exact answers by kind, with the strings as words and as frames."""
    found: dict[str, Any] = {}
    for name, stretched in (("text", False), ("frames", True)):
        counts = evaluate(model, words, 100, stretched)
        right, asked = (sum(column) for column in zip(*counts.values()))
        found[name] = {kind: [*pair] for kind, pair in counts.items()}
        found[f"{name}_exact_percent"] = round(100 * right / asked, 2)
        print(f"{name}: {right} of {asked} answers exact")
    return found


def main(folder: str, start: str | None = None) -> None:
    """Train, test and save; `start` is a checkpoint that has had the first pass."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = fresh()
    words, causal = Words(model.assets()), model.llm.causal
    print(f"{model.num_parameters():,} parameters, {len(words.ids)} words")
    if start is not None:
        model.load_state_dict(LanguageModel.from_pretrained(start, device="cpu").state_dict())
    for number in range(start is not None, len(PASSES)):
        train(causal, words, number)
        save(model, Path(folder))
    model.eval().to(torch.float16).float()  # what is measured is what is stored
    results = {"processor_seconds": round(time.process_time()), **measured(causal, words)}
    Path(folder, "results.json").write_text(json.dumps(results, indent=1) + "\n")


def save(model: LanguageModel, folder: Path) -> None:
    """Store the model in half precision with its card."""
    model.save_pretrained(folder, card=CARD.read_text(encoding="utf-8"), dtype=torch.float16)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
