from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aronnax.collections.common.audio import perturb
from aronnax.collections.common.audio.perturb import PerturbConfig, perturb_cuts
from aronnax.core.errors import ConfigError, ManifestError

lhotse = pytest.importorskip("lhotse")
RATE = 16000


@pytest.fixture
def cuts(tmp_path: Path) -> lhotse.CutSet:
    made = []
    for index in range(20):
        samples = 0.3 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)
        soundfile.write(tmp_path / f"{index}.wav", samples, RATE, subtype="FLOAT")
        made.append(lhotse.Recording.from_file(tmp_path / f"{index}.wav").to_cut().with_id(f"cut{index}"))
    return lhotse.CutSet.from_cuts(made)


@pytest.fixture
def noises(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    lines = []
    for index, seconds in enumerate([0.3, 4.0]):
        samples = 0.1 * generator.standard_normal(round(8000 * seconds))
        soundfile.write(tmp_path / f"noise{index}.wav", samples, 8000, subtype="FLOAT")
        lines.append(json.dumps({"audio_filepath": f"noise{index}.wav", "duration": seconds}))
    (tmp_path / "noise.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "noise.jsonl")


def audio(cut: lhotse.cut.Cut) -> np.ndarray:
    return cut.load_audio()[0]


def test_the_default_changes_nothing(cuts: lhotse.CutSet) -> None:
    for before, after in zip(cuts, perturb_cuts(cuts, PerturbConfig())):
        np.testing.assert_array_equal(audio(before), audio(after))


def test_speed_changes_duration_and_pitch(cuts: lhotse.CutSet) -> None:
    config = PerturbConfig(speed_factors=(0.8, 1.25), speed_probability=1.0)
    durations = [cut.duration for cut in perturb_cuts(cuts, config)]
    assert set(durations) == {0.8, 1.25}
    for cut in perturb_cuts(cuts, config):
        samples = audio(cut)
        assert len(samples) == cut.num_samples
        peak = np.abs(np.fft.rfft(samples)).argmax() / cut.duration
        assert peak == pytest.approx(300 / cut.duration, abs=2)


def test_gain_scales(cuts: lhotse.CutSet) -> None:
    for before, after in zip(cuts, perturb_cuts(cuts, PerturbConfig(gain_db=(-6, -6), gain_probability=1.0))):
        np.testing.assert_allclose(audio(after), audio(before) * 10 ** (-6 / 20), atol=1e-5)


def test_noise_has_the_ratio_asked_for(cuts: lhotse.CutSet, noises: str) -> None:
    config = PerturbConfig(noise=noises, noise_probability=1.0, noise_snr_db=(15, 15))
    lengths = set()
    for before, after in zip(cuts, perturb_cuts(cuts, config)):
        clean, noisy = audio(before), audio(after)
        assert len(noisy) == len(clean)
        ratio = 10 * np.log10((clean**2).mean() / ((noisy - clean) ** 2).mean())
        assert ratio == pytest.approx(15, abs=0.7)
        assert after.id == before.id
        lengths.add(len(after.tracks))
    assert lengths == {2, 5}, "both the long noise and the repeated short one were drawn"


def test_a_room_smears_but_keeps_the_length(cuts: lhotse.CutSet, tmp_path: Path) -> None:
    response = np.zeros((4000, 2), np.float32)
    response[0], response[2000] = 1.0, 0.5
    soundfile.write(tmp_path / "room.wav", response, RATE)
    recordings = lhotse.RecordingSet.from_recordings([lhotse.Recording.from_file(tmp_path / "room.wav")])
    recordings.to_file(tmp_path / "rooms.jsonl.gz")
    config = PerturbConfig(rir=str(tmp_path / "rooms.jsonl.gz"), rir_probability=1.0)
    for before, after in zip(cuts, perturb_cuts(cuts, config)):
        heard = audio(after)
        assert heard.shape == (RATE,)
        expected = np.convolve(audio(before), response[:, 0])[:RATE]
        assert np.corrcoef(heard, expected)[0, 1] > 0.999


def test_draws_depend_on_seed_and_id_alone(cuts: lhotse.CutSet, noises: str) -> None:
    config = PerturbConfig(speed_probability=0.5, gain_probability=0.5, noise=noises)
    shuffled = lhotse.CutSet.from_cuts(random.Random(0).sample(list(cuts), len(cuts)))
    once = {cut.id: audio(cut) for cut in perturb_cuts(cuts, config, seed=1)}
    again = {cut.id: audio(cut) for cut in perturb_cuts(shuffled, config, seed=1)}
    other = {cut.id: audio(cut) for cut in perturb_cuts(cuts, config, seed=2)}
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert any(not np.array_equal(once[name], other[name]) for name in once)
    assert any(np.array_equal(once[cut.id], audio(cut)) for cut in cuts), "a probability leaves some alone"


def test_lazy_cuts_stay_lazy_and_the_work_can_be_sent_to_a_worker(
    cuts: lhotse.CutSet, tmp_path: Path, noises: str
) -> None:
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    lazy = perturb_cuts(
        lhotse.CutSet.from_jsonl_lazy(tmp_path / "cuts.jsonl.gz"), PerturbConfig(noise=noises)
    )
    assert lazy.is_lazy
    assert len([cut.id for cut in lazy]) == 20
    draws = pickle.loads(pickle.dumps(perturb._Perturb(PerturbConfig(speed_probability=1.0), 0)))
    assert draws(next(iter(cuts))).duration != 1.0


def test_a_missing_noise_manifest_is_named(cuts: lhotse.CutSet) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.jsonl"):
        perturb_cuts(cuts, PerturbConfig(noise="nowhere.jsonl"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"noise_probability": 2.0}, "noise_probability"),
        ({"gain_db": (3.0, -3.0)}, "gain_db"),
        ({"speed_factors": (0.0,)}, "speed_factors"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PerturbConfig(**settings)
