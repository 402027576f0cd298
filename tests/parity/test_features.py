"""Our log-mel features against those NeMo's own front end wrote (tests/parity/make/features.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.common.audio.features import LogMel, LogMelConfig

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "features.npz")
CASES = sorted({name.split("/")[0] for name in FIXTURE.files if "/" in name})
OURS = {
    "features": "n_mels",
    "preemph": "preemphasis",
    "lowfreq": "low_freq",
    "highfreq": "high_freq",
    "log_zero_guard_type": "log_zero_guard",
}


def config(settings: dict[str, object]) -> LogMelConfig:
    values = {OURS.get(key, key): value for key, value in settings.items()}
    values["normalize"] = {"NA": "none"}.get(str(values["normalize"]), values["normalize"])
    values["preemphasis"] = values.get("preemphasis", 0.97) or 0.0
    return LogMelConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_features_equal_nemos(case: str) -> None:
    model = LogMel(config(json.loads(str(FIXTURE[f"{case}/settings"])))).eval()
    np.testing.assert_array_equal(model.featurizer.window.numpy(), FIXTURE[f"{case}/window"])
    np.testing.assert_allclose(model.featurizer.fb[0].sum(1).numpy(), FIXTURE[f"{case}/fb_sum"], rtol=1e-6)
    signal, lengths = torch.from_numpy(FIXTURE["signal"]), torch.from_numpy(FIXTURE["lengths"])
    features, frames = model(signal, lengths)
    expected = FIXTURE[f"{case}/features"]
    assert frames.tolist() == FIXTURE[f"{case}/frames"].tolist()
    # NeMo's tensor is a frame wider than the longest row; what lies beyond a row is zero in both.
    width = min(features.shape[1], expected.shape[1])
    assert width >= int(frames.max())
    np.testing.assert_allclose(features[:, :width].numpy(), expected[:, :width], rtol=0, atol=2e-4)
    assert not features[:, width:].any()
    assert not expected[:, width:].any()
