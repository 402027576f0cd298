"""Greedy transducer decoding alone, beside NeMo and transformers: same weights and encoder states, tokens compared.

ARONNAX_NEMO_PYTHON=/path/to/nemo/bin/python python benchmarks/decoding.py [--repeats N] [--threads N]

Sizes are those of the public FastConformer-L transducers (encoder 512, prediction and joint 640, 1024 tokens). The
weights are random; the blank's bias is set so that about three tokens a second come out, as in speech. On a machine
with a GPU the decoder is also timed there, with and without CUDA graphs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hugging import ParakeetDecoder
from peers import Peer, alternate, nemo_python, save, seconds

from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.transducer.decoding import TransducerDecoder
from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig, PredictionNetwork

WIDTH, HIDDEN, VOCABULARY, MAX_SYMBOLS = 512, 640, 1024, 10
FRAMES = 125
FRAMES_PER_SECOND = 12.5
TOKEN_RATE = 3.0
HEADS: dict[str, tuple[int, ...]] = {"tdt": (0, 1, 2, 3, 4), "rnnt": ()}


def make(durations: tuple[int, ...]) -> tuple[PredictionNetwork, Joint]:
    """Random modules whose outputs differ from frame to frame as a trained model's do."""
    torch.manual_seed(0)
    network = PredictionNetwork(PredictionConfig(hidden=HIDDEN), VOCABULARY).eval()
    joint = Joint(JointConfig(hidden=HIDDEN), WIDTH, HIDDEN, VOCABULARY, len(durations)).eval()
    with torch.no_grad():
        joint.output.weight.mul_(8.0)
        # transformers does not bound the tokens of a TDT frame, and a random model would repeat some for ever: a
        # token without duration is therefore made improbable, as it is in trained models.
        joint.output.bias[VOCABULARY + 1 : VOCABULARY + 2] -= 100.0
    return network, joint


def calibrate(decoder: TransducerDecoder, joint: Joint, states: torch.Tensor) -> float:
    """Set the blank's bias by bisection; return the tokens a second it gives."""
    lengths = torch.full((len(states),), states.shape[1])
    low, high, rate = -20.0, 60.0, 0.0
    for _ in range(16):
        with torch.no_grad():
            joint.output.bias[VOCABULARY] = (low + high) / 2
        hypotheses, _ = decoder(states, lengths, confidence=None)
        said = sum(len(hypothesis.tokens) for hypothesis in hypotheses)
        rate = said / (states.shape[0] * states.shape[1]) * FRAMES_PER_SECOND
        low, high = ((low + high) / 2, high) if rate > TOKEN_RATE else (low, (low + high) / 2)
    return rate


def compare(head: str, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Time both sides at batch 1, 8 and 32; print and return one row each."""
    durations = HEADS[head]
    network, joint = make(durations)
    decoder = TransducerDecoder(network, joint, durations, MAX_SYMBOLS)
    states = torch.randn(32, FRAMES, WIDTH)
    rate = calibrate(decoder, joint, states)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights, inputs = str(Path(folder) / "weights.npz"), str(Path(folder) / "states.npy")
        tensors = {f"decoder.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"joint.{k}": v for k, v in joint.state_dict().items()}
        np.savez(weights, **{name: value.numpy() for name, value in tensors.items()})
        np.save(inputs, states.numpy())
        peer = Peer(nemo_python(), "nemo_heads.py")
        peer.call("threads", number=threads)
        peer.call("build", weights=weights, states=inputs, durations=list(durations), max_symbols=MAX_SYMBOLS)
        parakeet = ParakeetDecoder(network, joint, durations, MAX_SYMBOLS)
        for batch in (1, 8, 32):
            rows.append(timed(head, rate, decoder, states[:batch], peer, parakeet, repeats))
        peer.close()
    return rows


def timed(
    head: str,
    rate: float,
    decoder: TransducerDecoder,
    states: torch.Tensor,
    peer: Peer,
    parakeet: ParakeetDecoder,
    repeats: int,
) -> dict[str, Any]:
    """One row of the table."""
    batch, frames, _ = states.shape
    lengths = torch.full((batch,), frames)

    def ours(confidence: str | None = None) -> list[Hypothesis]:
        return decoder(states, lengths, confidence=confidence)[0]

    theirs = peer.call("decode", batch=batch)
    found = ours()
    same = theirs["frames"] == [h.frames for h in found]
    same = same and theirs["tokens"] == [h.tokens for h in found] == parakeet(states)
    times = alternate(
        {
            "aronnax": lambda: seconds(ours),
            "with confidence": lambda: seconds(lambda: ours("tsallis")),
            "nemo": lambda: peer.call("decode", batch=batch)["seconds"],
            "transformers": lambda: seconds(lambda: parakeet(states)),
        },
        repeats,
    )
    ratio = times["nemo"] / times["aronnax"]
    print(
        f"{head:5} batch {batch:2}  aronnax {times['aronnax'] * 1e3:7.1f} ms (with confidence "
        f"{times['with confidence'] * 1e3:7.1f})  NeMo {times['nemo'] * 1e3:8.1f} ms  ratio {ratio:5.1f}  "
        f"transformers {times['transformers'] * 1e3:8.1f} ms  "
        f"tokens and frames {'equal' if same else 'DIFFER'}",
        flush=True,
    )
    return {"head": head, "batch": batch, "tokens_per_second": rate, "same": same, "ratio": ratio, **times}


def on_gpu(head: str) -> list[dict[str, Any]]:
    """The decoder on a GPU, with and without CUDA graphs, in float32 and bfloat16."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        network, joint = make(HEADS[head])
        states = torch.randn(32, FRAMES, WIDTH)
        decoder = TransducerDecoder(network, joint, HEADS[head], MAX_SYMBOLS)
        calibrate(decoder, joint, states)
        network.to("cuda", dtype)
        joint.to("cuda", dtype)
        rows += [timed_on_gpu(head, decoder, states[:batch].to("cuda", dtype)) for batch in (1, 8, 32)]
    return rows


def timed_on_gpu(head: str, decoder: TransducerDecoder, states: torch.Tensor) -> dict[str, Any]:
    """One row of the GPU's table; results are lists, so a call ends when the GPU has."""
    batch, dtype = len(states), str(states.dtype).removeprefix("torch.")
    lengths = torch.full((batch,), FRAMES, device="cuda")

    def run(graphs: bool) -> list[list[int]]:
        decoder.cuda_graphs = graphs
        return [hypothesis.tokens for hypothesis in decoder(states, lengths, confidence=None)[0]]

    same = run(True) == run(False)
    times = alternate(
        {"graphs": lambda: seconds(lambda: run(True)), "eager": lambda: seconds(lambda: run(False))}
    )
    print(
        f"{head:5} batch {batch:2}  {dtype}  graphs {times['graphs'] * 1e3:6.1f} ms  "
        f"eager {times['eager'] * 1e3:6.1f} ms  tokens {'equal' if same else 'DIFFER'}",
        flush=True,
    )
    return {"head": head, "batch": batch, "dtype": dtype, "same": same, **times}


def main() -> None:
    """Run the comparison and write benchmarks/results/decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--gpu-only", action="store_true", help="leave NeMo and the CPU out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    if not options.gpu_only:
        rows = [row for head in HEADS for row in compare(head, options.repeats, options.threads)]
        save("decoding", {"frames": FRAMES, "threads": options.threads, "rows": rows})
    if torch.cuda.is_available():
        gpu = [row for head in HEADS for row in on_gpu(head)]
        save("decoding_gpu", {"frames": FRAMES, "device": torch.cuda.get_device_name(), "rows": gpu})


if __name__ == "__main__":
    main()
