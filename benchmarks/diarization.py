"""Sortformer in the shape of diar_streaming_sortformer_4spk-v2: aronnax beside NeMo, offline and at 1.04 s latency.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/diarization.py [offline] [stream] [--seconds N]
    python benchmarks/diarization.py memory

Random weights, the same on both sides through a .nemo archive; the largest difference of their results is told.
`memory` needs no NeMo: a miniature hears three hours as a stream of 1.04 s, and the memory of the process is read
every half hour.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import RESULTS, Peer, alternate, nemo_python, save, seconds

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.diarization.sortformer.config import SortformerConfig, TransformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.streaming import PROFILES
from aronnax.core import nemo

RATE = 16000
LATENCY = 1.04
MODES = ("offline", "stream", "memory")


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


def heard(model: SortformerModel, signal: np.ndarray, mode: str) -> np.ndarray:
    """Probabilities [T, N] of a signal, all at once or pushed in pieces of a second."""
    with torch.inference_mode():
        if mode == "offline":
            return model(torch.from_numpy(signal)[None], torch.tensor([len(signal)])).probabilities[0].numpy()
        stream = model.stream(LATENCY)
        pieces = [stream.push(signal[start : start + RATE]) for start in range(0, len(signal), RATE)]
        return torch.cat([*pieces, stream.finish()]).numpy()


def beside_nemo(mode: str, length: float, repeats: int, threads: int) -> dict[str, Any]:
    """Median seconds of both sides, and the largest difference of their probabilities."""
    torch.manual_seed(0)
    model = SortformerModel(SortformerConfig()).eval()
    signal = voices(length)
    profile = None
    if mode == "stream":
        chosen = PROFILES[LATENCY]
        profile = {
            "chunk_len": chosen.chunk,
            "chunk_right_context": chosen.right,
            "chunk_left_context": chosen.left,
            "fifo_len": chosen.fifo,
            "spkcache_update_period": chosen.update,
            "spkcache_len": chosen.cache,
        }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nemo.save(model, folder / "model.nemo")
        np.save(folder / "signal.npy", signal)
        peer = Peer(nemo_python(), "nemo_sortformer.py")
        peer.call("build", archive=str(folder / "model.nemo"), threads=threads)
        results: dict[str, np.ndarray] = {}

        def theirs() -> float:
            given = {"signal": str(folder / "signal.npy"), "output": str(folder / "theirs.npy")}
            return peer.call("diarize", profile=profile, **given)["seconds"]

        def ours() -> float:
            return seconds(lambda: results.update(ours=heard(model, signal, mode)))

        sides: dict[str, Callable[[], float]] = {"NeMo": theirs, "aronnax": ours}
        times = alternate(sides, repeats, warmup=0 if repeats == 1 else 1)
        frames = np.load(folder / "theirs.npy")
        peer.close()
    count = min(len(frames), len(results["ours"]))
    difference = float(np.abs(frames[:count] - results["ours"][:count]).max())
    return {**times, "seconds of audio": length, "largest difference": difference}


def memory(hours: float) -> dict[str, Any]:
    """MiB of this process while a miniature hears a stream, each half hour."""
    encoder = FastConformerConfig(
        feat_in=128, n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=4, ff_expansion_factor=1
    )
    transformer = TransformerConfig(n_layers=1, width=8, inner=16, n_heads=2)
    model = SortformerModel(SortformerConfig(encoder=encoder, transformer=transformer)).eval()
    stream, signal = model.stream(LATENCY), voices(60.0)
    found = {}
    for minute in range(round(60 * hours) + 1):
        stream.push(signal)
        if minute % 30 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found[f"{minute} minutes"] = pages * 4096 / 2**20
    return {
        "MiB": found,
        "growth MiB after the first half hour": found[f"{minute} minutes"] - found["30 minutes"],
    }


def main() -> None:
    """Measure, print the ratios, add them to what is saved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="*", default=MODES, choices=[*MODES, []])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / "diarization.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for mode in options.modes:
        if mode == "memory":
            kept[mode] = memory(options.hours)
            print(mode, kept[mode])
            continue
        row = beside_nemo(mode, options.seconds, options.repeats, options.threads)
        kept[mode] = {"threads": options.threads, **row}
        ratio = row["NeMo"] / row["aronnax"]
        print(f"{mode}: {row['seconds of audio']:g} s of audio, {options.threads} threads")
        print(f"  NeMo {row['NeMo']:.2f} s, aronnax {row['aronnax']:.2f} s: {ratio:.2f}x")
        print(f"  largest difference of a probability {row['largest difference']:.1e}")
    save("diarization", kept)


if __name__ == "__main__":
    main()
