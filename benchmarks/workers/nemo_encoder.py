"""NeMo's side of the encoder benchmark; runs in NeMo's environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.modules import ConformerEncoder
from protocol import serve

_encoder: Any = None
_features: Any = None
_lengths: Any = None


def build(weights: str, batch: str, options: dict[str, Any], threads: int) -> None:
    """Make the encoder with the tensors of the file `weights`; keep features and lengths of the .npz `batch`."""
    global _encoder, _features, _lengths
    torch.set_num_threads(threads)
    _encoder = ConformerEncoder(**options)
    _encoder.load_state_dict(torch.load(weights, weights_only=True))
    stored = np.load(batch)
    _features = torch.from_numpy(stored["features"]).transpose(1, 2).contiguous()
    _lengths = torch.from_numpy(stored["lengths"])


@torch.inference_mode()
def encode(rows: int, output: str | None = None) -> dict[str, float]:
    """Encode the first `rows` rows; return seconds, and save the states [B, T, D] if a path is given."""
    _encoder.eval()
    features, lengths = _features[:rows], _lengths[:rows]
    start = time.perf_counter()
    states, _ = _encoder(audio_signal=features, length=lengths)
    elapsed = time.perf_counter() - start
    if output is not None:
        np.save(output, states.transpose(1, 2).contiguous().numpy())
    return {"seconds": elapsed}


def train(rows: int) -> dict[str, float]:
    """Forward and backward over the first `rows` rows; return seconds."""
    _encoder.train()
    _encoder.zero_grad()
    start = time.perf_counter()
    states, _ = _encoder(audio_signal=_features[:rows], length=_lengths[:rows])
    states.square().mean().backward()
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    serve({"build": build, "encode": encode, "train": train})
