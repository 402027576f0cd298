"""Canary archives written by NeMo 3.0.0, of every prompt and tokenizer kind, load here with the same outputs.

Tolerances: 1e-4 on encoder states and log-probabilities; ids and texts identical. The archives and NeMo's outputs
are made by tests/parity/make/canary_archives.py.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aronnax
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.common.nn.generation import GenerationOptions
from aronnax.core.errors import CheckpointError

FIXTURES = Path(__file__).parent / "fixtures" / "canary"
MAKE = Path(__file__).parent / "make" / "canary_archives.py"
NAMES = ("canary_agg", "canary2_agg", "canary2_bpe")
SEARCHES = {
    "greedy": GenerationOptions(),
    "beam4": GenerationOptions(beam=4, nemo_beam=True),
    "beam4_penalty": GenerationOptions(beam=4, length_penalty=1.0, nemo_beam=True),
}


@pytest.fixture(scope="module")
def make() -> Any:
    """The script's own lists of slot values, so that both sides count the same combinations."""
    sys.path.insert(0, str(MAKE.parent))
    try:
        import canary_archives
    finally:
        sys.path.remove(str(MAKE.parent))
    return canary_archives


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> CanaryModel:
    found = aronnax.load(FIXTURES / f"{name}.nemo", device="cpu")
    assert isinstance(found, CanaryModel)
    return found


@pytest.fixture
def truth(name: str) -> Any:
    return np.load(FIXTURES / f"{name}.npz")


def asked_prompts(model: CanaryModel, combinations: list[dict[str, str]]) -> list[list[int]]:
    return [model.encode_prompt(combinations[place]).prompt for place in (0, 3, -2)]


@torch.inference_mode()
def check(model: CanaryModel, truth: Any, make: Any, name: str) -> None:
    """Encoder states, teacher-forced log-probabilities, and the ids and texts of every search."""
    signal, lengths = make.recordings()
    encoded = model.encode(signal, lengths)
    assert encoded.lengths.tolist() == truth["lengths"].tolist()
    theirs = torch.from_numpy(truth["states"])
    for row, frames in enumerate(encoded.lengths.tolist()):
        torch.testing.assert_close(encoded.states[row, :frames], theirs[row, :frames], atol=1e-4, rtol=0)
    log_probs = model.forward_tokens(encoded.states, encoded.lengths, torch.from_numpy(truth["tokens"]))
    for row, tokens in enumerate((14, 9, 5)):
        expected = torch.from_numpy(truth["log_probs"])[row, :tokens]
        torch.testing.assert_close(log_probs[row, :tokens], expected, atol=1e-4, rtol=0)
    prompts = asked_prompts(model, make.combinations(name))
    for key, generation in SEARCHES.items():
        found, _ = model.decode(encoded.states, encoded.lengths, prompts=prompts, generation=generation)
        ids, texts = json.loads(str(truth[f"{key}_ids"])), truth[f"{key}_texts"]
        for row, (hypothesis, tokens, text) in enumerate(zip(found, ids, texts)):
            assert hypothesis.tokens == tokens, (key, row)
            assert model.text.decode(tokens, specials=True) == str(text).strip(), (key, row)


def test_an_archive_of_nemo_gives_nemos_outputs(name: str, model: CanaryModel, truth: Any, make: Any) -> None:
    check(model, truth, make, name)


def test_saving_and_loading_again_changes_nothing(
    name: str, model: CanaryModel, truth: Any, make: Any, tmp_path: Path
) -> None:
    folder = model.save_pretrained(tmp_path / "folder")
    archive = aronnax.load(folder, device="cpu").save_nemo(tmp_path / "again.nemo")
    again = aronnax.load(archive, device="cpu")
    assert isinstance(again, CanaryModel)
    # What NeMo must be told of the prompt, we would have taken by ourselves.
    assert again.config.decoder == model.config.decoder
    assert again.config.decoding == model.config.decoding
    check(again, truth, make, name)


def test_every_combination_of_slots_gives_nemos_ids(
    name: str, model: CanaryModel, truth: Any, make: Any
) -> None:
    combinations = make.combinations(name)
    assert len(combinations) == len(truth["prompts"]) >= 160
    for slots, row in zip(combinations, truth["prompts"]):
        assert model.encode_prompt(slots).prompt == [int(token) for token in row if token >= 0], slots


def test_answers_have_nemos_ids(name: str, model: CanaryModel, truth: Any) -> None:
    for key, ids in json.loads(str(truth["answers"])).items():
        language, _, text = key.partition("/")
        slots = {"source_lang": "en", "target_lang": language}
        assert model.encode_prompt(slots, text).answer == ids, key


def test_python_truth_values_say_what_they_mean(model: CanaryModel) -> None:
    """NeMo writes <|nopnc|> for all of these but the first."""
    slots = {"source_lang": "en", "target_lang": "en"}
    wanted = model.encode_prompt({**slots, "pnc": "yes"}).prompt
    for value in (True, 1, "Yes", "TRUE", "on"):
        assert model.encode_prompt({**slots, "pnc": value}).prompt == wanted
    for value, other in itertools.product((False, 0, "No", "off"), ("no",)):
        assert model.encode_prompt({**slots, "pnc": value}) == model.encode_prompt({**slots, "pnc": other})


@torch.inference_mode()
def test_the_second_model_of_an_archive_is_the_aligner(make: Any) -> None:
    truth = np.load(FIXTURES / "canary2_bpe.npz")
    model = aronnax.load(FIXTURES / "canary2_bpe.nemo", device="cpu")
    assert isinstance(model, CanaryModel)
    assert model.aligner is not None
    assert not any(parameter.requires_grad for parameter in model.aligner.parameters())
    signal, lengths = make.recordings()
    encoded = model.aligner.encode(signal, lengths)
    ours = model.aligner.decoder(encoded.states).log_softmax(-1)
    for row, frames in enumerate(truth["aligner_lengths"].tolist()):
        expected = torch.from_numpy(truth["aligner"])[row, :frames]
        torch.testing.assert_close(ours[row, :frames], expected, atol=1e-4, rtol=0)
    assert model.aligner.tokenizer is not None
    assert model.aligner.tokenizer.vocab_size == model.text.vocab_size


def test_a_transformer_encoder_between_is_refused(model: CanaryModel) -> None:
    from aronnax.collections.asr.canary.nemo import FAMILY
    from aronnax.core.errors import ConfigError

    nemo = FAMILY.config_to_nemo(model.config, model.assets())
    with pytest.raises(ConfigError, match=r"transf_encoder\.num_layers=2"):
        FAMILY.config_from_nemo({**nemo, "transf_encoder": {"num_layers": 2}})


def test_the_texts_are_worth_comparing(truth: Any) -> None:
    said = [str(text) for key in SEARCHES for text in truth[f"{key}_texts"]]
    assert len(set(said)) >= 5
    assert all(len(set(text)) >= 4 for text in said)


def test_a_missing_weight_is_named(model: CanaryModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = model.save_pretrained(tmp_path / "folder")
    weights = load_file(folder / "model.safetensors")
    weights.pop("log_softmax.mlp.layer0.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"log_softmax\.mlp\.layer0\.bias"):
        aronnax.load(folder)


@pytest.mark.slow
def test_nemo_restores_what_we_save(make: Any, tmp_path: Path) -> None:
    python = os.environ.get("ARONNAX_NEMO_PYTHON")
    if not python:
        pytest.skip("set ARONNAX_NEMO_PYTHON to the Python of an environment with nemo_toolkit[asr] 3.0.0")
    for name in NAMES:
        aronnax.load(FIXTURES / f"{name}.nemo", device="cpu").save_nemo(tmp_path / f"{name}.nemo")
    done = subprocess.run(
        [python, str(MAKE), "--outputs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in NAMES:
        theirs, truth = np.load(tmp_path / f"{name}.npz"), np.load(FIXTURES / f"{name}.npz")
        assert set(theirs) == set(truth)
        for key in truth:
            if truth[key].dtype.kind == "U":
                assert theirs[key].tolist() == truth[key].tolist(), (name, key)
            else:
                np.testing.assert_allclose(theirs[key], truth[key], atol=1e-4, rtol=0)
