"""Sortformer archives written by NeMo 3.0.0 give the same probabilities here, offline and in every streaming profile.

Tolerances: 1e-4 on probabilities and on projections of the speaker cache; the frames each compression keeps are
identical. The archives and NeMo's outputs are made by tests/parity/make/sortformer.py.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aronnax
from aronnax.collections.diarization.sortformer import speaker_cache
from aronnax.collections.diarization.sortformer.streaming import PROFILES

FIXTURES = Path(__file__).parent / "fixtures" / "sortformer"
MAKE = Path(__file__).parent / "make" / "sortformer.py"
# 750 steps take a quarter of a minute.
FAST_PROFILES = [pytest.param(0.32, marks=pytest.mark.slow), 1.04, 10.0, 30.4]


@cache
def made() -> dict[str, Any]:
    return runpy.run_path(str(MAKE))


@cache
def sessions() -> tuple[torch.Tensor, torch.Tensor]:
    found: tuple[torch.Tensor, torch.Tensor] = made()["sessions"]()
    return found


def close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    torch.testing.assert_close(ours.double(), torch.from_numpy(theirs).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("version", ["v1", "v2"])
@torch.inference_mode()
def test_offline_probabilities_of_a_ragged_batch_equal_those_of_each_row_alone_in_nemo(version: str) -> None:
    model = aronnax.load(FIXTURES / f"sortformer_{version}.nemo")
    truth = np.load(FIXTURES / f"sortformer_{version}.npz")
    found = model(*sessions())
    for row, frames in enumerate(found.lengths.tolist()):
        probabilities = found.probabilities[row, :frames]
        close(probabilities[:: made()["STRIDE"]], truth[f"offline{row}"])
        close(probabilities.double().mean(0), truth[f"offline_mean{row}"])


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[speaker_cache.Compressed]:
    """What every compression of a speaker cache chose and left in it, in the order of the steps."""
    kept: list[speaker_cache.Compressed] = []
    compress = speaker_cache.compress

    def recorded(*args: Any, **options: Any) -> speaker_cache.Compressed:
        kept.append(compress(*args, **options))
        return kept[-1]

    monkeypatch.setattr(speaker_cache, "compress", recorded)
    return kept


def same_caches(
    kept: list[speaker_cache.Compressed], indices: np.ndarray, frames: np.ndarray, heard: np.ndarray
) -> None:
    """The frames kept are identical; their projections and those of their probabilities are close."""
    assert torch.cat([item.indices for item in kept]).tolist() == indices.tolist()
    project = made()["projection"]
    close(torch.cat([item.frames for item in kept]) @ project(kept[0].frames.shape[2]), frames)
    close(torch.cat([item.probabilities for item in kept]) @ project(4), heard)


@pytest.mark.parametrize("latency", PROFILES)
@torch.inference_mode()
def test_streaming_keeps_the_frames_and_gives_the_probabilities_of_nemo(
    latency: float, compressions: list[speaker_cache.Compressed]
) -> None:
    model = aronnax.load(FIXTURES / "sortformer_v2.nemo")
    truth = np.load(FIXTURES / f"stream_{latency}.npz")
    signal, lengths = sessions()
    for row, length in enumerate(lengths.tolist()):
        compressions.clear()
        found = model.forward_streaming(
            signal[row : row + 1, :length], lengths[row : row + 1], PROFILES[latency]
        )
        close(found.probabilities[0, :: made()["STRIDE"]], truth[f"stream{latency}_{row}"])
        close(found.probabilities[0].double().mean(0), truth[f"stream_mean{latency}_{row}"])
        # A recording's last step changes nothing that is heard.
        same_caches(
            compressions, *(truth[f"{kind}{latency}_{row}"] for kind in ("indices", "cache", "heard"))
        )


@pytest.mark.parametrize("latency", FAST_PROFILES)
@torch.inference_mode()
def test_a_ragged_batch_streams_as_each_row_alone(
    latency: float, compressions: list[speaker_cache.Compressed]
) -> None:
    model = aronnax.load(FIXTURES / "sortformer_v2.nemo")
    truth = np.load(FIXTURES / f"stream_{latency}.npz")
    found = model.forward_streaming(*sessions(), PROFILES[latency])
    for row, frames in enumerate(found.lengths.tolist()):
        close(found.probabilities[row, : frames : made()["STRIDE"]], truth[f"stream{latency}_{row}"])
    alone = [
        [truth[f"{kind}{latency}_{row}"] for row in range(len(found.lengths))]
        for kind in ("indices", "cache", "heard")
    ]
    same_caches(compressions, *map(in_step, alone))


def in_step(rows: list[np.ndarray]) -> np.ndarray:
    """The compressions [steps, C] of each row, in the order in which a batch comes to them: step, then row."""
    steps = max(map(len, rows))
    return np.stack([row[step] for step in range(steps) for row in rows if step < len(row)])


@pytest.mark.parametrize("latency", FAST_PROFILES)
@torch.inference_mode()
def test_an_asynchronous_model_streams_as_nemos_asynchronous_one(
    latency: float, compressions: list[speaker_cache.Compressed]
) -> None:
    model = aronnax.load(FIXTURES / "sortformer_v2.nemo")
    model.config = replace(model.config, asynchronous=True)
    truth = np.load(FIXTURES / f"stream_{latency}.npz")
    found = model.forward_streaming(*sessions(), PROFILES[latency])
    for row, frames in enumerate(found.lengths.tolist()):
        close(found.probabilities[row, : frames : made()["STRIDE"]], truth[f"async{latency}_{row}"])
    same_caches(compressions, *(truth[f"{kind}{latency}_async"] for kind in ("indices", "cache", "heard")))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_configuration_survives_the_way_to_nemo_and_back(version: str, tmp_path: Path) -> None:
    model = aronnax.load(FIXTURES / f"sortformer_{version}.nemo")
    again = aronnax.load(model.save_nemo(tmp_path / "again.nemo"))
    folder = aronnax.load(model.save_pretrained(tmp_path / "folder"))
    assert again.config == model.config == folder.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.slow
def test_nemo_restores_what_we_save(tmp_path: Path) -> None:
    python = os.environ.get("ARONNAX_NEMO_PYTHON")
    if not python:
        pytest.skip("ARONNAX_NEMO_PYTHON does not name a Python with NeMo: run `make parity`")
    for version in ("v1", "v2"):
        original = FIXTURES / f"sortformer_{version}.nemo"
        shutil.copy(original, tmp_path / f"{version}.nemo")
        aronnax.load(original).save_nemo(tmp_path / f"{version}_saved.nemo")
    # NeMo runs both here: its numbers differ by 3e-5 from one processor to another.
    subprocess.run([python, str(MAKE), "--outputs", str(tmp_path)], check=True, capture_output=True)
    for version in ("v1", "v2"):
        truth, written = (np.load(tmp_path / f"{version}{kind}.npz") for kind in ("", "_saved"))
        assert truth.files
        for name in truth:
            np.testing.assert_allclose(written[name], truth[name], atol=1e-6)
