"""The encoder alone: aronnax beside NeMo and transformers, the same FastConformer-L weights and 10 s inputs.

    ARONNAX_NEMO_PYTHON=.venv-parity/bin/python python benchmarks/encoder.py [--repeats N] [--threads N]

Inference at batch 1 and 8, in fp32 and with int8 weights, and forward plus backward at batch 8. Beside the times
stand the fp32 matrix limits of the machine: the encoder's products alone, at the best speed that a large product
reaches through the BLAS library (`torch.mm`) and through oneDNN.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hugging import parakeet_encoder
from peers import Peer, alternate, nemo_python, save, seconds
from torch import Tensor, nn

from aronnax.collections.asr.encoder import FastConformer, FastConformerConfig
from aronnax.collections.common.nn.linear import linear
from aronnax.core.quantise import quantise

FRAMES = 1000


def products(encoder: FastConformer, frames: int) -> float:
    """Multiply-adds of the linear layers for one row of `frames` encoder frames, positions not counted."""
    layers = sum(
        p.numel() for n, p in encoder.layers.named_parameters() if p.ndim >= 2 and "depthwise" not in n
    )
    positions = sum(layer.self_attn.linear_pos.weight.numel() for layer in encoder.layers)
    return float(layers - positions + encoder.pre_encode.out.weight.numel()) * frames


def rate(product: Callable[[Tensor, Tensor], Any]) -> float:
    """Multiply-adds a second of `product` on [1024, 2048] and [2048, 2048]."""
    x, weight = torch.randn(1024, 2048), torch.randn(2048, 2048)
    with torch.inference_mode():
        return x.numel() * weight.shape[0] / min(seconds(lambda: product(x, weight)) for _ in range(12))


def sides(
    rows: int, models: dict[str, nn.Module], features: Tensor, lengths: Tensor, peer: Peer
) -> dict[str, Callable[[], float]]:
    """What is timed in inference for a batch of `rows`."""
    features, lengths = features[:rows], lengths[:rows]
    mask = torch.arange(features.shape[1]) < lengths[:, None]

    def timed(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            with torch.inference_mode():
                return seconds(call)

        return run

    return {
        "NeMo": lambda: peer.call("encode", rows=rows)["seconds"],
        "transformers": timed(lambda: models["transformers"](features, attention_mask=mask)),
        "aronnax fp32": timed(lambda: models["fp32"](features, lengths)),
        "aronnax int8": timed(lambda: models["int8"](features, lengths)),
    }


def agree(peer: Peer, models: dict[str, nn.Module], features: Tensor, lengths: Tensor, folder: Path) -> None:
    """Exits where the three do not compute the same states."""
    peer.call("encode", rows=len(features), output=str(folder / "states.npy"))
    theirs = torch.from_numpy(np.load(folder / "states.npy"))
    mask = torch.arange(features.shape[1]) < lengths[:, None]
    with torch.inference_mode():
        ours = models["fp32"](features, lengths)
        hugging = models["transformers"](features, attention_mask=mask).last_hidden_state
    for row, length in enumerate(ours.lengths.tolist()):
        for name, other in (("NeMo", theirs), ("transformers", hugging)):
            difference = (ours.states[row, :length] - other[row, :length]).abs().max().item()
            if difference > 1e-3:
                raise SystemExit(f"row {row} differs from {name} by {difference:.1e}: nothing to compare")


def measure(repeats: int, threads: int) -> dict[str, dict[str, float]]:
    """Median seconds of every side, a table row each."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = FastConformerConfig(xscaling=False)
    encoder = FastConformer(config).eval()
    with torch.inference_mode():
        models = {
            "fp32": encoder,
            "int8": quantise(copy.deepcopy(encoder)),
            "transformers": parakeet_encoder(encoder),
        }
    features, lengths = torch.randn(8, FRAMES, config.feat_in), torch.full((8,), FRAMES)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(encoder.state_dict(), folder / "weights.pt")
        np.savez(folder / "batch.npz", features=features.numpy(), lengths=lengths.numpy())
        options = {
            **{
                key: getattr(config, key)
                for key in ("feat_in", "n_layers", "d_model", "n_heads", "subsampling")
            },
            **{key: getattr(config, key) for key in ("subsampling_factor", "subsampling_conv_channels")},
            **{
                key: getattr(config, key)
                for key in ("conv_kernel_size", "xscaling", "dropout", "dropout_emb")
            },
            "dropout_att": config.dropout_att,
        }
        peer = Peer(nemo_python(), "nemo_encoder.py")
        weights, batch = str(folder / "weights.pt"), str(folder / "batch.npz")
        peer.call("build", weights=weights, batch=batch, options=options, threads=threads)
        agree(peer, models, features, lengths, folder)
        frames = encoder.output_length(FRAMES)
        for rows in (1, 8):
            row = alternate(sides(rows, models, features, lengths, peer), repeats)
            for library, product in (("BLAS", lambda x, w: torch.mm(x, w.t())), ("oneDNN", _onednn)):
                row[f"fp32 limit, {library}"] = rows * products(encoder, frames) / rate(product)
            results[f"batch {rows}"] = row
        results["training, batch 8"] = _training(encoder, features, lengths, peer, repeats)
        peer.close()
    return results


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    return linear(x, weight, None)


def _training(
    encoder: FastConformer, features: Tensor, lengths: Tensor, peer: Peer, repeats: int
) -> dict[str, float]:
    encoder.train()

    def step() -> None:
        encoder.zero_grad()
        encoder(features, lengths).states.square().mean().backward()

    def theirs() -> float:
        return peer.call("train", rows=len(features))["seconds"]

    return alternate({"NeMo": theirs, "aronnax fp32": lambda: seconds(step)}, max(2, repeats // 2))


def main() -> None:
    """Measure, print the ratio table, save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    results = measure(options.repeats, options.threads)
    print(f"FastConformer-L (17 x 512), 10 s a row, random weights, {options.threads} threads")
    for name, row in results.items():
        print(f"\n{name}")
        for side, value in row.items():
            print(f"  {side:20} {1000 * value:8.0f} ms   {row['NeMo'] / value:5.2f}x NeMo")
    save("encoder", {"threads": options.threads, **results})


if __name__ == "__main__":
    main()
