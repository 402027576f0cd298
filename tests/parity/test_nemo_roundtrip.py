"""`.nemo` archives written by NeMo 3.0.0 load here with the same outputs, and ours load there.

Tolerances: 1e-4 on every output after the features, 1e-3 on log features; texts identical.
The archives and NeMo's outputs are made by tests/parity/make/nemo_archives.py.
"""

from __future__ import annotations

import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aronnax
from aronnax.collections.asr.ctc.nemo import FAMILY as CTC
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.core import nemo

FIXTURES = Path(__file__).parent / "fixtures" / "nemo"
MAKE = Path(__file__).parent / "make" / "nemo_archives.py"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.nemo"))


def recordings() -> tuple[torch.Tensor, torch.Tensor]:
    found: tuple[torch.Tensor, torch.Tensor] = runpy.run_path(str(MAKE))["recordings"]()
    return found


@torch.inference_mode()
def outputs(model: SpeechRecognizer) -> dict[str, Any]:
    """What this package computes for the recordings, under the names the fixtures use."""
    signal, lengths = recordings()
    features, _ = model.preprocessor(signal, lengths)
    encoded = model.encode(signal, lengths)
    found: dict[str, Any] = {"features": features, "encoded": encoded.states, "lengths": encoded.lengths}

    def texts(head: str) -> list[str]:
        hypotheses, _ = model.decode(encoded.states, encoded.lengths, head=head)
        return [model.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses]

    if "ctc" in model.heads:
        head = model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder
        found["ctc"] = head(encoded.states)
        found["ctc_texts"] = texts("ctc")
    if hasattr(model, "joint"):
        targets = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [3, 1, 2, 9]])
        found["prediction"] = model.decoder(targets)
        found["joint"] = model.joint(encoded.states[:, :8], found["prediction"])
        found["texts"] = texts(model.heads[0])
    return found


def check(found: dict[str, Any], truth: Any) -> None:
    """Equal over the valid frames; what lies beyond a row's length means nothing."""
    assert set(found) == set(truth)
    frames = torch.from_numpy(truth["lengths"])
    assert found["lengths"].tolist() == frames.tolist()
    for name in ("texts", "ctc_texts"):
        if name in truth:
            assert list(found[name]) == [str(text).strip() for text in truth[name]]
    for name, tolerance in (("features", 1e-3), ("encoded", 1e-4), ("prediction", 1e-4)):
        if name in truth:
            rows = zip(found[name], torch.from_numpy(truth[name]))
            for row, (ours, theirs) in enumerate(rows):
                valid = int(frames[row]) if name == "encoded" else min(len(ours), len(theirs))
                torch.testing.assert_close(ours[:valid], theirs[:valid], atol=tolerance, rtol=0)
    if "ctc" in truth:
        for row, (ours, theirs) in enumerate(zip(found["ctc"], torch.from_numpy(truth["ctc"]))):
            valid = int(frames[row])
            ours = ours[:valid].log_softmax(-1)
            torch.testing.assert_close(ours, theirs[:valid], atol=1e-4, rtol=0)
    if "joint" in truth:
        # On the CPU NeMo's joint normalises over tokens and durations together.
        ours = found["joint"].log_softmax(-1)
        torch.testing.assert_close(ours, torch.from_numpy(truth["joint"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_of_nemo_gives_nemos_outputs(name: str) -> None:
    model = aronnax.load(FIXTURES / f"{name}.nemo", device="cpu")
    check(outputs(model), np.load(FIXTURES / f"{name}.npz"))


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_again_changes_nothing(name: str, tmp_path: Path) -> None:
    truth = np.load(FIXTURES / f"{name}.npz")
    model = aronnax.load(FIXTURES / f"{name}.nemo", device="cpu")
    folder = model.save_pretrained(tmp_path / "folder")
    archive = aronnax.load(folder, device="cpu").save_nemo(tmp_path / "again.nemo")
    again = aronnax.load(archive, device="cpu")
    assert again.config == model.config
    check(outputs(again), truth)


@pytest.mark.parametrize("name", NAMES)
def test_the_archives_texts_are_worth_comparing(name: str) -> None:
    truth = np.load(FIXTURES / f"{name}.npz")
    texts = [str(text) for key in ("texts", "ctc_texts") if key in truth for text in truth[key]]
    assert len(set("".join(texts))) >= 4, texts
    assert len(set(texts)) > 2, texts


def test_the_configuration_survives_both_translations() -> None:
    original = nemo.read(FIXTURES / "ctc_local.nemo")
    there = CTC.config_to_nemo(original.config, original.assets)
    assert CTC.config_from_nemo(there) == original.config


@pytest.fixture(scope="module")
def restored_by_nemo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of NeMo on archives that we saved."""
    python = os.environ.get("ARONNAX_NEMO_PYTHON")
    if not python:
        pytest.skip("set ARONNAX_NEMO_PYTHON to the Python of an environment with nemo_toolkit[asr] 3.0.0")
    folder = tmp_path_factory.mktemp("ours")
    for name in NAMES:
        aronnax.load(FIXTURES / f"{name}.nemo", device="cpu").save_nemo(folder / f"{name}.nemo")
    done = subprocess.run(
        [python, str(MAKE), "--outputs", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nemo_restores_what_we_save(name: str, restored_by_nemo: Path) -> None:
    theirs, truth = np.load(restored_by_nemo / f"{name}.npz"), np.load(FIXTURES / f"{name}.npz")
    assert set(theirs) == {*truth, "transcribed"}
    # NeMo's `transcribe` lengthens recordings of less than a second, such as the third.
    assert list(theirs["transcribed"][:2]) == list(truth["texts" if "texts" in truth else "ctc_texts"][:2])
    for key in truth:
        if truth[key].dtype.kind == "U":
            assert list(theirs[key]) == list(truth[key])
        else:
            np.testing.assert_allclose(theirs[key], truth[key], atol=1e-4, rtol=0)
