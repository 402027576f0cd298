"""The documented training command learns; its corpus is what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[2] / "examples" / "asr" / "digits"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's own modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    for name in ("voices", "strings", "train", "evaluate"):
        sys.modules.pop(name, None)


def _made_voice() -> list[tuple[np.ndarray, str]]:
    chance = np.random.default_rng(0)
    return [((0.1 * chance.standard_normal(2400)).astype(np.float32), word) for word in ("one", "two", "six")]


def test_strings_hold_the_digits_they_say(recipe: None) -> None:
    from strings import StringMaker, Surroundings
    from train import word_tokenizer
    from voices import Voice

    tokenizer = word_tokenizer()
    around = Surroundings.load(None, torch.Generator().manual_seed(0))
    maker = StringMaker([(1.0, [Voice("made", _made_voice())])], around, tokenizer, seed=0)
    maker.longest = 3
    batches = maker.batches(8)
    for batch in (next(batches) for _ in range(4)):
        assert batch.signal.shape[1] == int(batch.signal_lengths.max())
        assert torch.isfinite(batch.signal).all()
        assert batch.signal.abs().max() <= 1.01
        for row, text in enumerate(batch.texts):
            words = text.split()
            assert 1 <= len(words) <= 3
            ids = batch.tokens[row, : batch.token_lengths[row]].tolist()
            assert tokenizer.decode(ids) == text
            assert int(batch.signal_lengths[row]) >= 0.05 * 8000 * len(words)


def test_the_same_seed_gives_the_same_strings(recipe: None) -> None:
    from strings import StringMaker, Surroundings
    from train import word_tokenizer
    from voices import Voice

    signals = []
    for _ in range(2):
        around = Surroundings.load(None, torch.Generator().manual_seed(0))
        maker = StringMaker([(1.0, [Voice("made", _made_voice())])], around, word_tokenizer(), seed=5)
        signals.append(next(maker.batches(4)).signal)
    torch.testing.assert_close(*signals)


def test_recording_conditions_stay_within_the_clips(recipe: None) -> None:
    from strings import StringMaker, Surroundings
    from train import word_tokenizer

    around = Surroundings.load(None, torch.Generator().manual_seed(0))
    maker = StringMaker([], around, word_tokenizer(), seed=1)
    clip = np.zeros(2400, np.float32)
    clip[800:1600] = np.sin(np.arange(800) * 0.3) * 0.1
    heard = [maker.recorder()(clip) for _ in range(40)]
    assert all(audio.shape == clip.shape and np.isfinite(audio).all() for audio in heard)
    untouched = [audio is clip for audio in heard]
    assert 10 <= sum(untouched) <= 30
    coarse = [audio for audio, same in zip(heard, untouched) if not same and len(np.unique(audio)) < 300]
    assert len(coarse) >= 3


def test_weak_edges_are_cut_and_the_loud_middle_stays(recipe: None) -> None:
    from strings import cut_edges

    audio = np.concatenate([np.full(800, 0.001), np.full(1600, 0.5), np.full(400, 0.001)]).astype(np.float32)
    np.testing.assert_array_equal(cut_edges(audio, 20.0), audio[800:2400])
    np.testing.assert_array_equal(cut_edges(audio, 80.0), audio)


def test_doubles_of_a_speaker_do_not_depend_on_the_other_speakers(recipe: None, tmp_path: Path) -> None:
    from voices import real_voices

    alone = real_voices({"a": _made_voice()}, 2, seed=0)
    both = real_voices({"b": _made_voice(), "a": _made_voice()}, 2, seed=0, cache=tmp_path)
    cached = real_voices({"a": _made_voice()}, 2, seed=0, cache=tmp_path)
    for left, middle, right in zip(alone, both[2:], cached):
        assert left.name == middle.name == right.name
        for one, two, three in zip(left.clips, middle.clips, right.clips):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[0], three[0])
            assert one[1] == two[1] == three[1]


@pytest.mark.slow
def test_a_small_training_learns_an_unheard_speaker_and_resumes(tmp_path: Path) -> None:
    if "ARONNAX_DATA" not in os.environ:
        pytest.skip("ARONNAX_DATA does not name the folder that holds fsdd")
    options = [
        f"data.fsdd={os.environ['ARONNAX_DATA']}/fsdd", "data.hold_out=theo", "data.doubles=4",
        "data.synthesised=100", f"output={tmp_path}", "training.average=0.98",
        "training.lr=2e-3", "training.curriculum=[[2,0.3],[4,0.7],[7,1.0]]",
    ]  # fmt: skip
    command = [sys.executable, str(RECIPE / "train.py"), *options, "training.steps=500"]
    environment = {**os.environ, "PYTHONPATH": str(RECIPE.parents[2])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 300 "):
            process.kill()
    process.wait()
    assert (tmp_path / "state.pt").exists()
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "step 300 " in resumed
    assert "step 200 " not in resumed
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["strings, 8 kHz, tdt"]["wer"] < 0.35
    assert results["strings, 8 kHz, ctc"]["wer"] < 0.35
