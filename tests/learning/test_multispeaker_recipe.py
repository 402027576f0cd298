"""The recipe of multi-speaker recognition: what voices sound like, what a diarizer hears, a training of two steps."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
import torch
from scipy.signal import lfilter

import aronnax
from aronnax.collections.diarization.multispeaker.batch import MakeMultispeakerBatch
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.core.errors import ManifestError

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 8000


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's own modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES / "asr" / "digits"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "diarization"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "diarization" / "multispeaker"))
    yield
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _say(voice: np.random.Generator, draw: np.random.Generator) -> np.ndarray:
    """0.4 s of noise through the voice's resonances, a little off them each time."""
    hertz, width = voice.uniform([250, 900, 1900], [800, 1800, 3400]), voice.uniform(60, 300, 3)
    sound = draw.standard_normal(int(0.4 * RATE))
    for centre, spread in zip(hertz * draw.normal(1, 0.02, 3), width):
        radius = np.exp(-np.pi * spread / RATE)
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], sound)
    return (0.1 * sound / sound.std()).astype(np.float32)


def _voice(number: int, draw: np.random.Generator, count: int = 8) -> list[np.ndarray]:
    return [_say(np.random.default_rng(number), draw) for _ in range(count)]


def test_strangers_are_told_apart_by_what_they_sound_like(recipe: None) -> None:
    from voice_space import VoiceSpace, cepstra, describe
    from voices import Voice

    draw = np.random.default_rng(0)
    space = VoiceSpace.of(
        [Voice(str(n), [(sound, "one") for sound in _voice(n, draw)]) for n in range(60)], 16
    )
    assert space.directions.shape == (47, 16)
    assert (np.diff(space.between) <= 0).all()
    assert 0.5 < space.telling[0] < 1
    places = np.array(
        [[space.place(describe(*cepstra(sound))) for sound in _voice(n, draw)] for n in range(100, 120)]
    )
    flat, who = places.reshape(-1, 16), np.repeat(np.arange(20), 8)
    far = np.square(flat[:, None] - flat).sum(-1) + np.where(np.eye(len(flat)), np.inf, 0)
    assert (who[far.argmin(1)] == who).mean() > 0.9


def test_silence_and_moments_are_not_described(recipe: None) -> None:
    from voice_space import cepstra, describe, runs_of

    numbers, energy = cepstra(np.zeros(RATE, np.float32))
    assert describe(numbers, energy) is None
    assert describe(numbers[:0], energy[:0]) is None
    numbers, energy = cepstra(np.random.default_rng(0).standard_normal(RATE).astype(np.float32))
    assert describe(numbers[:8], energy[:8]) is None
    assert describe(numbers, energy).shape == (47,)
    assert runs_of(np.array([True, False, True, True])) == [(0, 1), (2, 4)]


def test_what_a_diarizer_hears_is_put_right_but_keeps_its_doubts(recipe: None) -> None:
    from sessions import put_right

    truth = np.array([[1, 0]] * 3 + [[1, 0], [1, 1], [1, 1], [0, 1], [0, 1], [0, 0], [0, 1]], np.float32)
    # Sure and right, confused, deaf to one, both, confused, unsure, a false alarm of the wrong one, both at once.
    heard = np.array(
        [[0.9, 0.1]] * 3
        + [[0.2, 0.8], [0.9, 0.3], [0.8, 0.7], [0.9, 0.1], [0.3, 0.4], [0.6, 0.2], [0.9, 0.8]],
        np.float32,
    )
    right = heard.copy()
    right[[3, 6, 8]] = right[[3, 6, 8], ::-1]
    np.testing.assert_array_equal(put_right(heard, truth), right)
    # The two may arrive in either order.
    np.testing.assert_array_equal(put_right(heard[:, ::-1], truth), right)
    np.testing.assert_array_equal(put_right(heard, np.zeros_like(truth)), heard)
    assert put_right(heard[:0], truth[:0]).shape == (0, 2)


def test_voices_are_warped_anew_each_time(recipe: None) -> None:
    from others import anew
    from voices import Voice

    voice = Voice("anna", [(np.random.default_rng(0).standard_normal(4000).astype(np.float32), "one")])
    rng = random.Random(0)
    heard = [anew(voice, rng) for _ in range(20)]
    lengths = [len(one.clips[0][0]) for one in heard]
    assert len(set(lengths)) == 20
    assert 4000 / 1.23 < min(lengths) < 4000 < max(lengths) < 4000 * 1.23
    assert all(one.name == "anna" and one.clips[0][1] == "one" and len(one.clips) == 1 for one in heard)
    # Half of them through a filter as well.
    plain = [soxr.resample(voice.clips[0][0], one.clips.factor, 1.0) for one in heard]
    filtered = [not np.array_equal(one.clips[0][0], sound) for one, sound in zip(heard, plain)]
    assert 4 <= sum(filtered) <= 16


def test_sounds_are_learned_from_the_stretches_of_one_speaker_alone(recipe: None) -> None:
    from diarizer import Sound
    from voice_space import VoiceSpace, cepstra, describe

    from aronnax.collections.diarization.multispeaker.batch import Session

    draw = np.random.default_rng(0)
    signal = draw.standard_normal(20 * 640).astype(np.float32)
    active = np.zeros((20, 2), np.float32)
    active[:8, 0] = active[6:16, 1] = 1
    space = VoiceSpace(np.zeros(47), draw.standard_normal((47, 3)) / 7, np.array([3.0, 1.0, 0.0]))
    session = Session("one", torch.from_numpy(signal), active, (), {})
    sound = Sound(2, 3, space)
    numbers, energy = cepstra(signal)
    states = torch.zeros(1, 20, 3)
    loss = sound([states, states], [session]).item()
    for head in sound.heads:
        torch.nn.init.zeros_(head[1].weight)
        torch.nn.init.zeros_(head[1].bias)
    truth = np.stack([space.place(describe(numbers[a:b], energy[a:b])) for a, b in ((0, 48), (64, 128))])
    expected = 2 * (np.square(truth) @ space.telling).mean() / 3
    frames = (np.square(np.repeat(truth, [6, 8], axis=0)) @ space.telling).mean() / 3
    assert sound([states, states], [session]).item() == pytest.approx(expected + 2 * 0.5 * frames, rel=1e-5)
    assert loss != pytest.approx(expected + frames, rel=1e-3)
    silent = replace(session, signal=torch.zeros(20 * 640))
    assert sound([states, states], [silent]).item() == 0


def test_sessions_are_learned_as_the_diarizer_hears_them_put_right(recipe: None) -> None:
    from train import DataConfig, Maker, beginner
    from voices import Voice

    class Channel:
        def reseed(self, seed: int) -> None:
            pass

        def heard(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return signal + 1

    class Diarizer:
        sample_rate = RATE

        def __call__(self, signal: torch.Tensor, lengths: torch.Tensor) -> SimpleNamespace:
            assert signal.min() > 0.5, "the diarizer hears what the recogniser hears"
            found = torch.tensor([0.1, 0.9, 0.0, 0.0]).expand(len(signal), signal.shape[1] // 640, 4)
            return SimpleNamespace(probabilities=found)

    draw = np.random.default_rng(0)
    maker = Maker.__new__(Maker)
    model = MultispeakerModel.of(beginner(SimpleNamespace(start="digits", speakers=2)), speakers=2)
    maker.batches, maker.diarizer, maker.seed, maker.channel = (
        MakeMultispeakerBatch(model),
        Diarizer(),
        0,
        Channel(),
    )
    maker.groups = [(1.0, [Voice(str(n), [(sound, "one") for sound in _voice(n, draw)]) for n in range(4)])]
    maker.data = DataConfig("", alone=0.0, exact=0.0, heard=1.0)
    sessions, batch = maker.made(0, 4, 4.0)
    speakers: set[int] = set()
    for session, signal, activity in zip(sessions, batch.speech.signal, batch.activity.numpy()):
        torch.testing.assert_close(signal[: len(session.signal)], session.signal + 1)
        true = session.activity
        assert set(np.unique(true)) == {0, 1}
        alone = np.flatnonzero(true.sum(1) == 1)
        alone = alone[alone < len(session.signal) // 640]
        speakers.update(true[alone].argmax(1).tolist())
        np.testing.assert_array_equal(activity[alone].argmax(1), true[alone].argmax(1))
        np.testing.assert_allclose(np.sort(activity[alone]), np.tile([0.1, 0.9], (len(alone), 1)), rtol=1e-6)
    assert speakers == {0, 1}
    maker.data = replace(maker.data, heard=0.0)
    corrupted = maker.made(0, 4, 4.0)[1].activity
    assert not torch.equal(corrupted, corrupted.round())
    maker.data = replace(maker.data, exact=1.0)
    sessions, batch = maker.made(0, 4, 4.0)
    for session, activity in zip(sessions, batch.activity.numpy()):
        np.testing.assert_array_equal(activity[: len(session.activity)], session.activity)


def test_a_folder_without_a_manifest_is_named(recipe: None, tmp_path: Path) -> None:
    from others import pieces_of

    with pytest.raises(ManifestError, match=r"manifest\.jsonl is not there: data\.others"):
        pieces_of(str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(
    "ARONNAX_DATA" not in os.environ, reason="ARONNAX_DATA does not name the folder with fsdd"
)
def test_the_recipes_train_and_go_on(tmp_path: Path) -> None:
    common = [f"data.fsdd={os.environ['ARONNAX_DATA']}/fsdd", "data.doubles=1", "data.synthesised=2"]
    common += [
        "start=digits",
        "training.sessions=2",
        "training.curriculum=[[2.5,1.0]]",
        "training.save_every=1",
    ]

    def run(script: str, output: str, *options: str) -> str:
        command = [sys.executable, str(EXAMPLES / "diarization" / "multispeaker" / script), *common, *options]
        command += [f"output={tmp_path / output}"]
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("diarizer.py", "diarizer", "training.steps=1", "data.overlap=[0.0,0.2]")
    assert "going on from step 1" in run("diarizer.py", "diarizer", "training.steps=2")
    taught = aronnax.load(tmp_path / "diarizer" / "model", device="cpu")
    bundled = aronnax.load("diarizer-small", device="cpu")
    assert taught.config == bundled.config
    # The encoder began anew; what lies behind it has learned for two steps.
    behind = "transformer_encoder.layers.0.first_sub_layer.query_net.weight"
    for name, far in (("encoder.layers.0.self_attn.linear_q.weight", True), (behind, False)):
        assert ((taught.get_parameter(name) - bundled.get_parameter(name)).abs().max() > 0.05) == far, name
    run(
        "train.py",
        "with",
        "training.steps=1",
        "data.heard=1.0",
        f"diarizer={tmp_path / 'diarizer' / 'model'}",
    )
    model = aronnax.load(tmp_path / "with" / "model", device="cpu")
    assert isinstance(model, MultispeakerModel)
    assert model.diarizer is not None
    for name, value in taught.state_dict().items():
        torch.testing.assert_close(model.diarizer.state_dict()[name], value)
