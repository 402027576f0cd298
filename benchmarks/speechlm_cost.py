"""What a language model pays for speech: a training step of SALM, BESTOW and the T5 style at 200, 400 and 800 frames.

    python benchmarks/speechlm_cost.py [--repeats N] [--batch N] [--text N]
    python benchmarks/speechlm_cost.py --packing [--repeats N]

All three have the same Llama of 27 million random parameters, one thread, and learn all of it. The frames are given,
because the encoder in front of them is the same. A step is the forward pass, the loss over 8 answer tokens and the
backward pass; the language model's share of it is told apart from that of joining the two (SALM's splice, BESTOW's
reader). Times are processor seconds, least of the repeats, which take turns. Memory is what the backward pass needs:
all tensors kept for it, each once, weights left out. Written are benchmarks/results/speechlm_cost.{json,png}.

With `--packing` SALM's language model learns from ragged conversations, in rows of their own and packed, the same
batches in turn: speech of log-normal length (median 5 s, 80 ms a frame), and a quarter of texts alone, with and
without buckets of alike lengths. Times are medians; benchmarks/results/speechlm_packing.json is written.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peers import RESULTS, save
from torch import Tensor, nn

from aronnax.collections.llm.backbone import Backbone, BackboneConfig
from aronnax.collections.llm.loss import answer_cross_entropy
from aronnax.collections.llm.packing import pack
from aronnax.collections.speechlm.bestow.layered import LayeredConfig, LayeredReader
from aronnax.collections.speechlm.bestow.reader import Reader, ReaderConfig
from aronnax.collections.speechlm.salm.splice import AUDIO, splice

FRAMES = (200, 400, 800)
ANSWER = 8
MOST = 8
"""Steps of a kind in one turn."""
FLAT = 0.10
"""By how much BESTOW's language model may differ between 200 and 800 frames."""
POSITIONS = 1200
"""Of a batch of ragged conversations, padding counted."""
BATCHES = 4
"""Ragged batches of each number of buckets."""
ROOMS: dict[str, int | None] = {"false": None, "true": 1, "512": 512}
"""`task.pack`, and what the model makes of it."""
LLAMA = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Batch:
    """Text and the frames it speaks of."""

    ids: Tensor
    """[B, U]."""
    speech: Tensor
    """[B, T, D]."""


Joined = tuple[Tensor, Tensor]
"""What the language model reads [B, U', D], and the token each position has to say next [B, U']."""


class Kind(ABC):
    """One way to give a language model ears."""

    def __init__(self, llm: Backbone) -> None:
        self.llm = llm
        self.parts: nn.Module = nn.Module()
        """What it adds to the language model."""

    @abstractmethod
    def join(self, batch: Batch) -> Joined:
        """Text and speech as the language model reads them."""

    def read(self, joined: Tensor, batch: Batch) -> Tensor:
        """Hidden states of the language model."""
        return self.llm(joined)


def labels_of(ids: Tensor) -> Tensor:
    """The last `ANSWER` tokens, each at the position before it."""
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER - 1 : -1] = ids[:, -ANSWER:]
    return labels


class SALM(Kind):
    """Frames in front of the words."""

    def join(self, batch: Batch) -> Joined:
        ids = torch.cat([torch.full_like(batch.ids[:, :1], AUDIO), batch.ids], 1)
        lengths = torch.full((len(ids),), ids.shape[1])
        spliced = splice(ids, lengths, self.llm.embed(ids.clamp(min=0)), list(batch.speech))
        silent = torch.full((len(ids), batch.speech.shape[1]), -100)
        return spliced.embeddings, torch.cat([silent, labels_of(batch.ids)], 1)


class BESTOW(Kind):
    """Words that look at the frames in front of the language model."""

    def __init__(self, llm: Backbone) -> None:
        super().__init__(llm)
        self.parts = Reader(ReaderConfig(), llm.width)

    def join(self, batch: Batch) -> Joined:
        seen = torch.full_like(batch.ids, batch.speech.shape[1])
        return self.parts(self.llm.embed(batch.ids), batch.speech, seen), labels_of(batch.ids)


class T5(Kind):
    """Words that look at the frames before every layer."""

    def __init__(self, llm: Backbone) -> None:
        super().__init__(llm)
        self.parts = LayeredReader(LayeredConfig(zero_start=False), llm)

    def join(self, batch: Batch) -> Joined:
        return self.llm.embed(batch.ids), labels_of(batch.ids)

    def read(self, joined: Tensor, batch: Batch) -> Tensor:
        seen = torch.full_like(batch.ids, batch.speech.shape[1])
        hidden: Tensor = self.parts(self.llm, joined, batch.speech, seen)
        return hidden


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of `work`, and what it gives."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def step(kind: Kind, batch: Batch) -> dict[str, float]:
    """Processor seconds of a step: of joining, and of the language model."""
    for module in (kind.llm, kind.parts):
        module.zero_grad()

    def learn(joined: Tensor, labels: Tensor) -> None:
        loss, _ = answer_cross_entropy(kind.read(joined, batch), labels, kind.llm.logits)
        loss.backward()

    forward, (joined, labels) = timed(lambda: kind.join(batch))
    cut = joined.detach().requires_grad_()
    llm, _ = timed(lambda: learn(cut, labels))
    backward, _ = timed(lambda: joined.backward(cut.grad))
    return {"joining": forward + backward, "llm": llm}


def kept(kind: Kind, batch: Batch) -> float:
    """MiB of the tensors that a step keeps for its backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in kind.llm.parameters()}
    weights |= {weight.untyped_storage().data_ptr() for weight in kind.parts.parameters()}
    held: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        joined, labels = kind.join(batch)
        loss, _ = answer_cross_entropy(kind.read(joined, batch), labels, kind.llm.logits)
    total = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    del loss
    return total / 2**20


def measure(rows: int, words: int, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds and MiB of each kind at each number of frames."""
    torch.manual_seed(0)
    llm = Backbone(BackboneConfig("llama", LLAMA)).train()
    kinds = {"SALM": SALM(llm), "BESTOW": BESTOW(llm), "T5 style": T5(llm)}
    for kind in kinds.values():
        kind.parts.train()
    ids = torch.randint(0, LLAMA["vocab_size"], (rows, words))
    batches = {frames: Batch(ids, torch.randn(rows, frames, llm.width)) for frames in FRAMES}
    places = [(name, frames) for frames in FRAMES for name in kinds]
    steps = {place: [step(kinds[place[0]], batches[place[1]])] for place in places}
    # Short steps are taken more often in a turn: each gets about as much time to have a good moment.
    longest = max(sum(found[0].values()) for found in steps.values())
    often = {place: min(MOST, round(longest / sum(found[0].values()))) for place, found in steps.items()}
    for _ in range(repeats):
        for place in places:
            name, frames = place
            steps[place] += [step(kinds[name], batches[frames]) for _ in range(often[place])]
    return {
        name: {
            str(frames): {
                "joining": min(one["joining"] for one in steps[name, frames]),
                "llm": min(one["llm"] for one in steps[name, frames]),
                "MiB": kept(kind, batches[frames]),
            }
            for frames in FRAMES
        }
        for name, kind in kinds.items()
    }


def lengths_of(count: int) -> list[int]:
    """Positions of conversations: speech with some words, and a quarter of texts alone."""
    draw = random.Random(0)
    speech = [min(250, max(6, round(12.5 * draw.lognormvariate(1.61, 0.7)))) for _ in range(count)]
    return [draw.randint(20, 60) + (frames if draw.random() < 0.75 else 0) for frames in speech]


def ragged(lengths: list[int], buckets: int) -> list[Tensor]:
    """Some batches, as the lengths of their rows, of conversations from buckets of alike ones."""
    draw = random.Random(1)
    ordered, size = sorted(lengths), -(-len(lengths) // buckets)
    made: list[list[int]] = []
    for start in range(0, len(ordered), size):
        bucket = ordered[start : start + size]
        draw.shuffle(bucket)
        made.append([])
        for one in bucket:
            if (len(made[-1]) + 1) * max([one, *made[-1]]) > POSITIONS:
                made.append([])
            made[-1].append(one)
    return [torch.tensor(batch) for batch in draw.sample(made, BATCHES)]


def packed_step(llm: Backbone, lengths: Tensor, room: int | None) -> tuple[float, int, int]:
    """Processor seconds of a step over conversations of these lengths; its rows, and its positions with padding."""
    llm.zero_grad()
    rows, width = len(lengths), int(lengths.max())
    embeddings = torch.randn(rows, width, llm.width, generator=torch.Generator().manual_seed(0))
    places = lengths[:, None] - 1 - torch.arange(width)
    labels = torch.where((places >= 1) & (places <= ANSWER), 7, -100)

    def learn() -> tuple[int, int]:
        if room is None:
            read, wanted, segments = embeddings, labels, None
        else:
            found = pack(embeddings, lengths, labels, room)
            read, wanted = found.embeddings, found.labels
            segments = found.segments if len(wanted) < rows else None
        answer_cross_entropy(llm(read, segments=segments), wanted, llm.logits)[0].backward()
        return wanted.shape[0], wanted.numel()

    seconds, (shared, positions) = timed(learn)
    return seconds, shared, positions


def measure_packing(repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Rows, share of padding and seconds of a step, for each number of buckets and each `task.pack`."""
    torch.manual_seed(0)
    llm = Backbone(BackboneConfig("llama", LLAMA)).train()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for buckets in (1, 8):
        batches = ragged(lengths_of(2000), buckets)
        steps: dict[str, list[list[tuple[float, int, int]]]] = {name: [[] for _ in batches] for name in ROOMS}
        for _ in range(repeats + 1):
            for place, batch in enumerate(batches):
                for name, room in ROOMS.items():
                    steps[name][place].append(packed_step(llm, batch, room))
        used = sum(int(batch.sum()) for batch in batches)
        found[str(buckets)] = {
            name: {
                "rows": statistics.mean(batch[0][1] for batch in of),
                "padding": 1 - used / sum(batch[0][2] for batch in of),
                "seconds": statistics.mean(statistics.median(one[0] for one in batch[1:]) for batch in of),
            }
            for name, of in steps.items()
        }
    return found


def show_packing(repeats: int) -> None:
    """Measure rows of their own beside packed ones, print and save."""
    found = measure_packing(repeats)
    print(f"{'buckets':>8}{'task.pack':>12}{'rows':>8}{'padding':>10}{'step s':>10}")
    for buckets, at in found.items():
        for name, one in at.items():
            print(
                f"{buckets:>8}{name:>12}{one['rows']:>8.1f}{one['padding']:>10.1%}{one['seconds']:>10.3f}",
            )
    print("processor seconds, on a machine that other work shared")
    shape = {"positions": POSITIONS, "batches": BATCHES, "repeats": repeats, "threads": 1, "llama": LLAMA}
    note = "processor seconds of one thread on a machine that other work shared; medians, settings in turn"
    save("speechlm_packing", {"shape": shape, "times": note, "buckets": found})


def draw(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Time and memory over the number of frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for number, (name, at) in enumerate(found.items()):
        colour = f"C{number}"
        frames = [int(count) for count in at]
        whole = [one["joining"] + one["llm"] for one in at.values()]
        times.plot(frames, whole, "o-", color=colour, label=name)
        times.plot(frames, [one["llm"] for one in at.values()], "--", color=colour, alpha=0.6)
        memory.plot(frames, [one["MiB"] for one in at.values()], "o-", color=colour, label=name)
    times.set(xlabel="speech frames", ylabel="s a step (dashed: language model)", ylim=0, xticks=FRAMES)
    memory.set(xlabel="speech frames", ylabel="MiB kept for the backward pass", ylim=0, xticks=FRAMES)
    memory.legend()
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / "speechlm_cost.png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, draw, save; without `--packing`, exits with 1 if BESTOW's language model is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--text", type=int, default=32)
    parser.add_argument("--packing", action="store_true", help="measure rows of their own beside packed ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.packing:
        show_packing(options.repeats)
        return
    found = measure(options.batch, options.text, options.repeats)
    print(f"{'':10}{'frames':>8}{'joining s':>12}{'llm s':>10}{'step s':>10}{'MiB':>10}")
    for name, at in found.items():
        for frames, one in at.items():
            whole = one["joining"] + one["llm"]
            print(
                f"{name:10}{frames:>8}{one['joining']:>12.3f}{one['llm']:>10.3f}{whole:>10.3f}{one['MiB']:>10.1f}"
            )
    llm = [one["llm"] for one in found["BESTOW"].values()]
    spread = max(llm) / min(llm) - 1
    print(
        f"BESTOW's language model differs by {100 * spread:.1f} % between {FRAMES[0]} and {FRAMES[-1]} frames"
    )
    shape = {"rows": options.batch, "text": options.text, "answer": ANSWER, "threads": 1, "llama": LLAMA}
    save("speechlm_cost", {"shape": shape, "bestow llm spread": spread, "steps": found})
    draw(found)
    sys.exit(spread > FLAT)


if __name__ == "__main__":
    main()
