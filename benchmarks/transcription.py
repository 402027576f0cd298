"""Whole transcription beside NeMo and transformers: the same FastConformer-L TDT weights and 10 s clips, batch 1, 8.

All go from samples in memory to text: NeMo and aronnax through their `transcribe` (aronnax in fp32 and with int8
weights), transformers through its feature extractor and `generate`. The machine's fp32 matrix limit is
printed too: the encoder's multiplications alone, done at the best speed a large matrix product reaches here.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/transcription.py
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial

import numpy as np
import torch
from hugging import Parakeet
from peers import Peer, alternate, nemo_python, save, seconds

import aronnax

RATE = 16000
CLIP_SECONDS = 10


def clips(count: int) -> np.ndarray:
    """`count` clips [count, S] of modulated noise: with random weights only the length of the audio matters."""
    rng = np.random.default_rng(0)
    envelope = np.repeat(rng.uniform(0.02, 0.3, (count, CLIP_SECONDS * 5)), RATE // 5, axis=1)
    return (rng.standard_normal((count, CLIP_SECONDS * RATE)) * envelope).astype(np.float32)


def matrix_rate() -> float:
    """Multiply-adds a second that this machine reaches in a large fp32 matrix product."""
    left, right = torch.randn(1024, 2048), torch.randn(2048, 1024)
    torch.mm(left, right)
    return left.numel() * right.shape[1] / min(seconds(lambda: torch.mm(left, right)) for _ in range(10))


def encoder_products(model: torch.nn.Module, frames: int) -> float:
    """Multiply-adds of the encoder layers' linear parts for `frames` encoder frames."""
    return float(sum(p.numel() for n, p in model.encoder.layers.named_parameters() if p.ndim >= 2)) * frames


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each side for batch 1 and 8."""
    with tempfile.TemporaryDirectory() as folder:
        path, audio = f"{folder}/model.nemo", f"{folder}/clips.npy"
        np.save(audio, clips(8))
        peer = Peer(nemo_python(), "nemo_transcription.py")
        rate = peer.call("build", path=path, clips=audio)
        print(
            f"FastConformer-L TDT, random weights, {rate:.1f} tokens a second; {torch.get_num_threads()} threads"
        )
        models = {"fp32": aronnax.load(path), "int8": aronnax.load(path, weights="int8")}
        parakeet = Parakeet(models["fp32"])
        rows = {}
        for batch in (1, 8):
            signals = [(signal, RATE) for signal in np.load(audio)[:batch]]
            reference = peer.call("transcribe", clips=audio, batch=batch)["texts"]
            ours = [str(result) for result in models["fp32"].transcribe(signals, batch_size=batch)]
            hugging = [signal for signal, _ in signals]
            if not ours == reference == parakeet.transcribe(hugging, RATE):
                raise SystemExit("the texts differ: a speed comparison would mean nothing")
            sides = {"NeMo": lambda n=batch: peer.call("transcribe", clips=audio, batch=n)["seconds"]}
            sides["transformers"] = partial(seconds, partial(parakeet.transcribe, hugging, RATE))
            for name, model in models.items():
                call = partial(model.transcribe, signals, batch_size=batch, timestamps=False, confidence=None)
                sides[f"aronnax {name}"] = partial(seconds, call)
            rows[f"batch {batch}"] = alternate(sides, repeats)
            frames = batch * CLIP_SECONDS * 12.5
            rows[f"batch {batch}"]["fp32 matrix limit"] = (
                encoder_products(models["fp32"], frames) / matrix_rate()
            )
        peer.close()
    return rows


def main() -> None:
    """Measure, print the ratio table, save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    rows = measure(parser.parse_args().repeats)
    for batch, row in rows.items():
        print(f"\n{batch}: {CLIP_SECONDS} s clips, samples to text")
        for name, value in row.items():
            print(f"  {name:20} {1000 * value:8.0f} ms   {row['NeMo'] / value:5.2f}x NeMo")
    save("transcription", rows)


if __name__ == "__main__":
    main()
