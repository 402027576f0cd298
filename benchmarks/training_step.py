"""One training step beside NeMo: forward, loss, backward and AdamW on FastConformer-L, the same weights and batch.

RNN-T is measured at a usual size. NeMo's only TDT loss for a CPU walks the lattice cell by cell in Python and would
need minutes a step there, so TDT is measured at a small size, where that walk weighs less.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/training_step.py [--repeats N]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from peers import Peer, alternate, nemo_python, save, seconds
from transcription import CLIP_SECONDS, RATE, clips

import aronnax
from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.transducer.loss import losses


@dataclass(frozen=True)
class Size:
    """A batch of `clips` clips of `seconds` seconds, `tokens` targets each."""

    clips: int
    seconds: int
    tokens: int


SIZES = {"rnnt": Size(clips=4, seconds=CLIP_SECONDS, tokens=30), "tdt": Size(clips=2, seconds=3, tokens=9)}


def batch_of(signals: np.ndarray, tokens: int, vocabulary: int) -> SpeechBatch:
    """A batch of whole clips [B, S] with random targets [B, U]."""
    count, samples = signals.shape
    return SpeechBatch(
        signal=torch.from_numpy(signals),
        signal_lengths=torch.full((count,), samples),
        tokens=torch.randint(0, vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0)),
        token_lengths=torch.full((count,), tokens),
        texts=[""] * count,
        ids=[str(row) for row in range(count)],
    )


def measure(head: str, size: Size, repeats: int) -> dict[str, float]:
    """Median seconds of a step of that size on each side."""
    with tempfile.TemporaryDirectory() as folder:
        path, audio = f"{folder}/model.nemo", f"{folder}/clips.npy"
        np.save(audio, clips(size.clips)[:, : size.seconds * RATE])
        peer = Peer(nemo_python(), "nemo_transcription.py")
        peer.call("build", path=path, clips=audio, head=head)
        model = aronnax.load(path).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        batch = batch_of(np.load(audio), size.tokens, model.config.vocab_size)

        def step() -> None:
            output = model.encode(batch.signal, batch.signal_lengths)
            loss = losses(model, output, batch, sigma=0.02 if head == "tdt" else 0.0)[head]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        theirs = partial(peer.call, "training_step", clips=audio, batch=size.clips, tokens=size.tokens)
        row = alternate({"NeMo": theirs, "aronnax": partial(seconds, step)}, repeats)
        peer.close()
    return row


def main() -> None:
    """Measure both heads, print the ratios, save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    threads = torch.get_num_threads()
    print(f"one training step of FastConformer-L (17 x 512), fp32, {threads} threads, median of {repeats}")
    rows: dict[str, Any] = {}
    for head, size in SIZES.items():
        row = measure(head, size, repeats)
        ratio = row["NeMo"] / row["aronnax"]
        print(
            f"  {head:5} {size.clips} clips of {size.seconds:2} s, {size.tokens:2} tokens each   "
            f"NeMo {row['NeMo']:6.2f} s   aronnax {row['aronnax']:6.2f} s   {ratio:5.2f}x",
            flush=True,
        )
        rows[head] = {"size": asdict(size), "ratio": ratio, **row}
    print("  (TDT is small because NeMo's CPU loss for it walks the lattice in Python)")
    save("training_step", {"threads": threads, "repeats": repeats, **rows})


if __name__ == "__main__":
    main()
