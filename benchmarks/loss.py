"""RNN-T and TDT loss with gradient, beside NeMo on the CPU: same scores, values compared.

ARONNAX_NEMO_PYTHON=/path/to/nemo/bin/python python benchmarks/loss.py [--repeats N] [--threads N]

NeMo's RNN-T loss on a CPU is its numba package's, its TDT loss there the plain PyTorch one; both walk the lattice
cell by cell in Python, so the sizes for the comparison are small. The growth of our own loss with batch, frames and
tokens follows, with full scores and fused with the joint.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import Peer, alternate, nemo_python, save, seconds

from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.loss import fused_transducer_loss, rnnt_loss, tdt_loss

WIDTH, VOCABULARY, SIGMA = 640, 1024, 0.02
HEADS: dict[str, tuple[int, ...]] = {"rnnt": (), "tdt": (0, 1, 2, 3, 4)}
SIDE_BY_SIDE = ((1, 30, 8), (2, 40, 10))
ALONE = ((1, 125, 40), (4, 125, 40), (8, 125, 40), (8, 250, 80))


def ragged(batch: int, frames: int, tokens: int) -> dict[str, torch.Tensor]:
    """Targets and lengths of which the first row is full and the last about half as long."""
    shares = torch.linspace(1.0, 0.5, batch)
    return {
        "targets": torch.randint(0, VOCABULARY, (batch, tokens)),
        "lengths": (shares * frames).long(),
        "tokens": (shares * tokens).long(),
    }


def full_loss(
    scores: torch.Tensor, given: dict[str, torch.Tensor], durations: tuple[int, ...]
) -> torch.Tensor:
    """Our loss of full scores."""
    arguments = (scores, given["targets"], given["lengths"], given["tokens"])
    return tdt_loss(*arguments, durations=durations, sigma=SIGMA) if durations else rnnt_loss(*arguments)


def side_by_side(head: str, size: tuple[int, int, int], peer: Peer, repeats: int) -> dict[str, Any]:
    """Value and gradient by both sides."""
    durations, (batch, frames, tokens) = HEADS[head], size
    torch.manual_seed(0)
    given = ragged(batch, frames, tokens)
    scores = torch.randn(batch, frames, tokens + 1, VOCABULARY + 1 + len(durations)).requires_grad_()

    def ours() -> float:
        loss = full_loss(scores, given, durations)
        scores.grad = None
        loss.backward()
        return float(loss.detach())

    with tempfile.TemporaryDirectory() as folder:
        inputs = str(Path(folder) / "inputs.npz")
        arrays: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in given.items()}
        np.savez(inputs, scores=scores.detach().numpy(), **arrays)

        def theirs() -> dict[str, Any]:
            answer: dict[str, Any] = peer.call("loss", inputs=inputs, durations=list(durations), sigma=SIGMA)
            return answer

        difference = abs(theirs()["value"] - ours()) / abs(ours())
        times = alternate(
            {"aronnax": lambda: seconds(ours), "nemo": lambda: theirs()["seconds"]}, repeats, warmup=0
        )
    ratio = times["nemo"] / times["aronnax"]
    print(
        f"{head:5} B {batch:2} T {frames:3} U {tokens:2}  aronnax {times['aronnax'] * 1e3:8.1f} ms  "
        f"NeMo {times['nemo'] * 1e3:9.1f} ms  ratio {ratio:6.1f}  relative difference {difference:.1e}",
        flush=True,
    )
    return {"head": head, "size": size, "difference": difference, "ratio": ratio, **times}


def alone(head: str, size: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """Joint, loss and gradient, unfused and fused."""
    durations, (batch, frames, tokens) = HEADS[head], size
    torch.manual_seed(0)
    given = ragged(batch, frames, tokens)
    joint = Joint(JointConfig(hidden=WIDTH, dropout=0.0), WIDTH, WIDTH, VOCABULARY, len(durations))
    encoder = torch.randn(batch, frames, WIDTH, requires_grad=True)
    prediction = torch.randn(batch, tokens + 1, WIDTH, requires_grad=True)

    def unfused() -> None:
        full_loss(joint(encoder, prediction), given, durations).backward()

    def fused() -> None:
        fused_transducer_loss(
            joint,
            encoder,
            prediction,
            given["targets"],
            given["lengths"],
            given["tokens"],
            durations=durations,
            sigma=SIGMA if durations else 0.0,
        ).backward()

    times = alternate({"unfused": lambda: seconds(unfused), "fused": lambda: seconds(fused)}, repeats)
    scores = batch * frames * (tokens + 1) * (VOCABULARY + 1 + len(durations)) * 4 / 2**20
    print(
        f"{head:5} B {batch:2} T {frames:3} U {tokens:2}  joint and loss {times['unfused'] * 1e3:8.1f} ms  "
        f"fused {times['fused'] * 1e3:8.1f} ms  full scores {scores:6.0f} MB",
        flush=True,
    )
    return {"head": head, "size": size, "scores_mb": scores, **times}


def main() -> None:
    """Run both parts and write benchmarks/results/loss.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peer = Peer(nemo_python(), "nemo_heads.py")
    peer.call("threads", number=options.threads)
    compared = [side_by_side(head, size, peer, options.repeats) for head in HEADS for size in SIDE_BY_SIDE]
    peer.close()
    growth = [alone(head, size, options.repeats) for head in HEADS for size in ALONE]
    save("loss", {"threads": options.threads, "beside_nemo": compared, "growth": growth})


if __name__ == "__main__":
    main()
