"""Sortformer in the shape of diar_streaming_sortformer_4spk-v2: aronnax beside NeMo, offline and at 1.04 s latency.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/diarization.py [offline] [stream] [--seconds N]
    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/diarization.py step [--repeats N]
    python benchmarks/diarization.py memory

Random weights, the same on both sides through a .nemo archive; aronnax in fp32, with 16-bit and with 8-bit weights,
or with some of these alone (`--weights int16`). A stream is timed step by step, the sides in turn, so that whatever
else the machine does slows all alike. Told are seconds of the processor, which a busy machine disturbs less than
those of the wall, and the largest difference from NeMo's probabilities. The fp32 matrix limit is what the linear
layers' multiplications alone would take at the best speed that such a product reaches here: no fp32 program that
encodes the same frames can be faster.

`step` is for a machine that is never quiet: one step of a stream whose cache is full and whose queue is as long as
on average, again and again, the sides in turn, and of each the time that was the shortest. With several threads,
which wait for each other, it is wall time.

`memory` needs no NeMo: a miniature hears three hours at 30.4 s latency, as long recordings are heard, and half an
hour at 1.04 s, whose steps are 57 times as many; the memory of the process is read six times.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import RESULTS, Peer, nemo_python, save
from torch.nn import functional as F

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.nn.linear import linear
from aronnax.collections.diarization.sortformer.config import SortformerConfig, TransformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.streaming import PROFILES
from aronnax.core import nemo
from aronnax.core.errors import OptionError
from aronnax.core.quantise import quantise

RATE = 16000
LATENCY = 1.04
LONG = 30.4
WEIGHTS = ("fp32", "int16", "int8")
MODES = ("offline", "stream", "step", "memory")


def voices(length: float) -> np.ndarray:
    """Tones of four pitches that take turns, with pauses: float32 samples [S] of `length` seconds."""
    random = np.random.default_rng(0)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < length * RATE:
        time = np.arange(int(random.uniform(0.5, 4) * RATE)) / RATE
        pitch, loud = 90 + 55 * random.integers(0, 4), random.choice([0.0, 0.2, 0.2, 0.2])
        wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9))
        pieces.append(loud * wave + 0.003 * random.standard_normal(len(time)))
    return np.concatenate(pieces)[: int(length * RATE)].astype(np.float32)


@dataclass
class Side:
    """One contestant: `advance` hears one step more and says whether that was the last."""

    advance: Callable[[], bool]
    processor: float = 0.0
    wall: float = 0.0
    frames: list[np.ndarray] = field(default_factory=list)


def ours(model: SortformerModel, signal: np.ndarray, mode: str) -> Side:
    """Aronnax: all at once, or the samples of one step at a time."""
    samples = torch.from_numpy(signal)
    if mode == "offline":

        def at_once() -> Iterator[torch.Tensor]:
            yield model(samples[None], torch.tensor([len(samples)])).probabilities[0]

        return _iterated(at_once())

    def steps() -> Iterator[torch.Tensor]:
        stream, size = model.stream(LATENCY), PROFILES[LATENCY].chunk * model.samples_per_frame
        for start in range(0, len(samples), size):
            yield stream.push(samples[start : start + size])
        yield stream.finish()

    return _iterated(steps())


def _iterated(pieces: Iterator[torch.Tensor]) -> Side:
    side = Side(lambda: True)

    def advance() -> bool:
        processor, wall = time.process_time(), time.perf_counter()
        with torch.inference_mode():
            piece = next(pieces, None)
        side.processor += time.process_time() - processor
        side.wall += time.perf_counter() - wall
        if piece is not None:
            side.frames.append(piece.numpy())
        return piece is None

    side.advance = advance
    return side


def theirs(peer: Peer, folder: Path, mode: str, threads: int) -> Side:
    """NeMo: all at once, or one step of its streaming loop at a time."""
    chosen = PROFILES[LATENCY]
    profile = {
        "chunk_len": chosen.chunk,
        "chunk_right_context": chosen.right,
        "chunk_left_context": chosen.left,
        "fifo_len": chosen.fifo,
        "spkcache_update_period": chosen.update,
        "spkcache_len": chosen.cache,
    }
    given = None if mode == "offline" else profile
    peer.call("begin", signal=str(folder / "signal.npy"), profile=given, threads=threads)
    side = Side(lambda: True)

    def advance() -> bool:
        found = peer.call("advance", output=str(folder / "theirs.npy"))
        side.processor += found["processor"]
        side.wall += found["wall"]
        if found["done"]:
            side.frames.append(np.load(folder / "theirs.npy"))
        return bool(found["done"])

    side.advance = advance
    return side


def run(sides: dict[str, Side]) -> None:
    """All sides to their ends, a step of each in turn."""
    left = dict(sides)
    while left:
        left = {name: side for name, side in left.items() if not side.advance()}


def weights(model: SortformerModel, kinds: Sequence[str]) -> dict[str, SortformerModel]:
    """The model with each of these weights that this machine is fast with."""
    models: dict[str, SortformerModel] = {}
    for name in kinds:
        try:
            one = model if name == "fp32" else quantise(copy.deepcopy(model), name)
            models[f"aronnax {name}"] = one
        except OptionError as error:
            print(f"without {name}: {error}")
    if not models:
        raise SystemExit("none of these weights is fast here")
    return models


def products(model: SortformerModel) -> float:
    """Multiply-adds of the linear layers for each frame that is encoded; positions are not counted."""
    linears = [
        parameter.numel()
        for part in (model.encoder.layers, model.transformer_encoder, model.sortformer_modules)
        for name, parameter in part.named_parameters()
        if parameter.ndim >= 2
        and not any(other in name for other in ("depthwise", "linear_pos", "pos_bias", "hidden_to_spks"))
    ]
    return float(sum(linears))


def best_rate(frames: int) -> float:
    """Multiply-adds a processor second of the best fp32 product here, [frames, 512] times [512, 2048]."""
    x, weight, rates = torch.randn(frames, 512), torch.randn(2048, 512), []
    with torch.inference_mode():
        for _ in range(40):
            for product in (F.linear, linear):
                start = time.process_time()
                product(x, weight, None)
                rates.append(x.numel() * len(weight) / (time.process_time() - start))
    return max(rates)


def beside_nemo(mode: str, length: float, repeats: int, threads: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Seconds of all sides for one recording, and how far their probabilities lie from NeMo's."""
    torch.manual_seed(0)
    model = SortformerModel(SortformerConfig()).eval()
    models, signal = weights(model, kinds), voices(length)
    encoded: list[int] = []
    next(iter(models.values())).transformer_encoder.register_forward_pre_hook(
        lambda module, inputs: encoded.append(inputs[0].shape[1])
    )
    rows: list[dict[str, Side]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nemo.save(model, folder / "model.nemo")
        np.save(folder / "signal.npy", signal)
        peer = Peer(nemo_python(), "nemo_sortformer.py")
        peer.call("build", archive=str(folder / "model.nemo"), threads=threads)
        with torch.inference_mode():
            for warmed in models.values():
                warmed(torch.from_numpy(signal[None, : 4 * RATE]), torch.tensor([4 * RATE]))
        for _ in range(repeats):
            encoded.clear()
            sides = {"NeMo": theirs(peer, folder, mode, threads)}
            sides.update({side: ours(model, signal, mode) for side, model in models.items()})
            run(sides)
            rows.append(sides)
        peer.close()
    found = {name: _summed([row[name] for row in rows], rows[-1]["NeMo"]) for name in rows[0]}
    frames = sum(encoded)
    found["fp32 matrix limit"] = limit(model, frames, max(encoded))
    return {"seconds of audio": length, "repeats": repeats, "threads": threads, "sides": found}


def limit(model: SortformerModel, frames: int, together: int) -> dict[str, float]:
    """Processor seconds of the linear layers' multiplications alone for so many frames, so many of them at a time."""
    return {"processor": frames * products(model) / best_rate(together), "frames encoded": frames}


def one_step(repeats: int, threads: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Shortest seconds of each side for one step of a stream that has long been going on."""
    torch.manual_seed(0)
    model, profile = SortformerModel(SortformerConfig()).eval(), PROFILES[LATENCY]
    models, width = weights(model, kinds), model.config.encoder.d_model
    length = profile.cache + profile.fifo - profile.update // 2 + profile.left + profile.chunk + profile.right
    frames, lengths = torch.randn(1, length, width), torch.tensor([length])
    times: dict[str, list[float]] = {name: [] for name in ("NeMo", *models)}
    kind, clock = ("processor", time.process_time) if threads == 1 else ("wall", time.perf_counter)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        archive, given = Path(name) / "model.nemo", Path(name) / "frames.npy"
        nemo.save(model, archive)
        np.save(given, frames.numpy())
        peer = Peer(nemo_python(), "nemo_sortformer.py")
        peer.call("build", archive=str(archive), threads=threads)
        for _ in range(repeats + 1):
            times["NeMo"].append(peer.call("encode", frames=str(given))[kind])
            for side, one in models.items():
                start = clock()
                one.activity(frames, lengths)
                times[side].append(clock() - start)
        peer.close()
    sides: dict[str, dict[str, float]] = {
        side: {kind: min(taken[1:]), "median": statistics.median(taken[1:])} for side, taken in times.items()
    }
    if threads == 1:
        sides["fp32 matrix limit"] = limit(model, length, length)
    return {"repeats": repeats, "threads": threads, "sides": sides}


def _summed(runs: list[Side], reference: Side) -> dict[str, float]:
    """The run that took the processor least."""
    best = min(runs, key=lambda side: side.processor)
    frames, others = np.concatenate(best.frames), np.concatenate(reference.frames)
    count = min(len(frames), len(others))
    difference = float(np.abs(frames[:count] - others[:count]).max())
    return {"processor": best.processor, "wall": best.wall, "largest difference": difference}


def memory(hours: float) -> dict[str, Any]:
    """MiB of this process while a miniature hears a stream of each latency, each half hour."""
    encoder = FastConformerConfig(
        feat_in=128, n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=4, ff_expansion_factor=1
    )
    transformer = TransformerConfig(n_layers=1, width=8, inner=16, n_heads=2)
    model = SortformerModel(SortformerConfig(encoder=encoder, transformer=transformer)).eval()
    signal, found = voices(60.0), {}
    for latency, minutes in ((LONG, round(60 * hours)), (LATENCY, round(10 * hours))):
        stream, taken = model.stream(latency), []
        for _ in range(minutes):
            stream.push(signal)
            taken.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
        every = max(1, minutes // 6)
        found[f"{latency} s latency"] = {
            "minutes": minutes,
            "MiB": taken[every - 1 :: every],
            "growth MiB after the first sixth": taken[-1] - taken[every - 1],
        }
    return found


def tell(mode: str, row: dict[str, Any]) -> None:
    """Print one mode's table."""
    what = f"{row['seconds of audio']:g} s of audio" if "seconds of audio" in row else "shortest of all"
    kind = "processor" if "processor" in row["sides"]["NeMo"] else "wall"
    print(f"\n{mode}: {what}, {row['threads']} threads, {kind} seconds")
    theirs = row["sides"]["NeMo"][kind]
    for name, side in row["sides"].items():
        line = f"  {name:18} {side[kind]:8.3f} s  {theirs / side[kind]:5.2f}x NeMo"
        if "largest difference" in side:
            line += f"   wall {side['wall']:7.1f} s   differs by {side['largest difference']:.1e}"
        print(line)


def main() -> None:
    """Measure, print the ratios, add them to what is saved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="*", default=MODES, choices=[*MODES, []])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / "diarization.json"
    for mode in options.modes:
        if mode == "memory":
            row = memory(options.hours)
            print(mode, row)
        else:
            row = (
                one_step(options.repeats, options.threads, options.weights)
                if mode == "step"
                else beside_nemo(mode, options.seconds, options.repeats, options.threads, options.weights)
            )
            tell(mode, row)
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        name = mode if row.get("threads", 1) == 1 else f"{mode}, {row['threads']} threads"
        if mode != "memory" and set(options.weights) != set(WEIGHTS):
            name += f", {' and '.join(options.weights)}"
        save("diarization", {**kept, name: row})


if __name__ == "__main__":
    main()
