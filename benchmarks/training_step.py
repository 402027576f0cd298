"""One training step beside NeMo: forward, loss, backward and AdamW on FastConformer-L, the same weights and batch.

Two heads: RNN-T, where NeMo has a compiled CPU loss, and TDT, where its only CPU loss is plain PyTorch.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial

import numpy as np
import torch
from peers import Peer, alternate, nemo_python, save, seconds
from transcription import CLIP_SECONDS, RATE, clips

import aronnax
from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.asr.transducer.loss import losses

BATCH = 4
TOKENS = 30


def batch_of(signals: np.ndarray, vocabulary: int) -> SpeechBatch:
    """A batch of whole clips [B, S] with random targets."""
    count, samples = signals.shape
    return SpeechBatch(
        signal=torch.from_numpy(signals),
        signal_lengths=torch.full((count,), samples),
        tokens=torch.randint(0, vocabulary, (count, TOKENS), generator=torch.Generator().manual_seed(0)),
        token_lengths=torch.full((count,), TOKENS),
        texts=[""] * count,
        ids=[str(row) for row in range(count)],
    )


def measure(head: str, repeats: int) -> dict[str, float]:
    """Median seconds of a step on each side."""
    with tempfile.TemporaryDirectory() as folder:
        path, audio = f"{folder}/model.nemo", f"{folder}/clips.npy"
        np.save(audio, clips(BATCH))
        peer = Peer(nemo_python(), "nemo_transcription.py")
        peer.call("build", path=path, clips=audio, head=head)
        model = aronnax.load(path).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        batch = batch_of(np.load(audio), model.config.vocab_size)

        def step() -> None:
            output = model.encode(batch.signal, batch.signal_lengths)
            loss = losses(model, output, batch, sigma=0.02 if head == "tdt" else 0.0)[head]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        theirs = partial(peer.call, "training_step", clips=audio, batch=BATCH, tokens=TOKENS)
        row = alternate({"NeMo": theirs, "aronnax": partial(seconds, step)}, repeats)
        peer.close()
    return row


def main() -> None:
    """Measure both heads, print the ratios, save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = {head: measure(head, repeats) for head in ("rnnt", "tdt")}
    print(f"one training step, {BATCH} clips of {CLIP_SECONDS} s ({RATE} Hz), {TOKENS} tokens each, fp32")
    for head, row in rows.items():
        ratio = row["NeMo"] / row["aronnax"]
        print(f"  {head:5} NeMo {row['NeMo']:7.2f} s   aronnax {row['aronnax']:7.2f} s   {ratio:5.2f}x")
    save("training_step", rows)


if __name__ == "__main__":
    main()
