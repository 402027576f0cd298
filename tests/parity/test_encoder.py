"""FastConformer against the output of NeMo 3.0.0's ConformerEncoder; tolerance 1e-4."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.asr.encoder import Attention, FastConformer, FastConformerConfig

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4


def _maker():
    sys.path.insert(0, str(HERE / "make"))
    try:
        import encoder as maker
    finally:
        sys.path.pop(0)
    return maker


MAKER = _maker()
FIXTURE = np.load(HERE / "fixtures" / "encoder.npz")
CASES = json.loads(str(FIXTURE["cases"]))


def _build(case: dict) -> FastConformer:
    config = dict(case["config"])
    if "att_context_size" in config:
        config["att_context_size"] = tuple(tuple(pair) for pair in config["att_context_size"])
    if isinstance(config.get("conv_context_size"), list):
        config["conv_context_size"] = tuple(config["conv_context_size"])
    encoder = FastConformer(FastConformerConfig(**config))
    encoder.shares_biases = encoder.tied
    names = MAKER.fill(encoder)
    assert sorted(names) == sorted((name, tuple(shape)) for name, shape in case["names"])
    return encoder.train(bool(case["extra"].get("train")))


def _override(extra: dict) -> Attention | None:
    if "change" in extra:
        return Attention("local", *extra["change"])
    if "context" in extra:
        return Attention("full", *extra["context"], style="chunked_limited")
    return None


def _assert_rows_close(ours: torch.Tensor, theirs: np.ndarray, lengths: list[int], every: int = 1) -> None:
    for row, length in enumerate(lengths):
        kept = -(-length // every)
        difference = np.abs(ours[row, :length:every].detach().numpy() - theirs[row, :kept]).max()
        assert difference < TOLERANCE, f"row {row}: {difference}"


@pytest.mark.parametrize("name", sorted(CASES))
def test_states_and_names_equal_nemos(name: str) -> None:
    case = CASES[name]
    extra = case["extra"]
    encoder = _build(case)
    lengths = torch.tensor(extra["lengths"])
    shape = (len(lengths), int(lengths.max()), case["config"]["feat_in"])
    features = torch.from_numpy(MAKER.draw("features", shape))
    with torch.no_grad():
        out = encoder(features, lengths, attention=_override(extra), all_layers=bool(extra.get("layers")))
    assert out.lengths.tolist() == FIXTURE[f"{name}/lengths"].tolist()
    _assert_rows_close(out.states, FIXTURE[f"{name}/states"], out.lengths.tolist(), extra.get("every", 1))
    for index, layer in enumerate(out.layers or ()):
        _assert_rows_close(layer, FIXTURE[f"{name}/layer{index}"], out.lengths.tolist())
    if extra.get("train"):
        norm = encoder.layers[0].conv.batch_norm
        assert np.abs(norm.running_mean.numpy() - FIXTURE[f"{name}/running_mean"]).max() < TOLERANCE
        assert np.abs(norm.running_var.numpy() - FIXTURE[f"{name}/running_var"]).max() < TOLERANCE
