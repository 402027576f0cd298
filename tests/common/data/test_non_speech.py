from __future__ import annotations

import pickle
from typing import get_args

import numpy as np
import pytest

from aronnax.collections.asr.batch import speech_data
from aronnax.collections.common.audio.perturb import PerturbConfig, perturb_cuts
from aronnax.collections.common.data import DataConfig
from aronnax.collections.common.data.filters import cut_language, cut_text, is_non_speech
from aronnax.collections.common.data.non_speech import (
    MadeSound,
    NonSpeechConfig,
    Sound,
    generated_noises,
    mix_non_speech,
)
from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.common.data.slots import cut_slots
from aronnax.collections.common.text import CharacterTokenizer
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError

RATE = 8000


def speech(number: int, **options):
    sound = MadeSound("tones", RATE, RATE, -20.0, number)
    slots = {"source_lang": "en", "target_lang": "en" if number % 2 else "de", "pnc": "no"}
    return made_cut(sound, RATE, RATE, "abc", f"speech-{number}", language="en", custom=slots, **options)


def test_the_share_is_that_of_the_whole_and_every_prompt_is_taken_over() -> None:
    config = NonSpeechConfig(share=0.3, seconds=(0.5, 1.0))
    mixed = list(mix_non_speech([speech(n) for n in range(1000)], config, RATE))
    quiet = [cut for cut in mixed if is_non_speech(cut)]
    assert len(quiet) / len(mixed) == pytest.approx(0.3, abs=0.03)
    assert {cut_text(cut) for cut in quiet} == {""}
    assert {cut_slots(cut)["target_lang"] for cut in quiet} == {"en", "de"}
    assert all(cut_slots(cut)["pnc"] == "no" and cut_language(cut) == "en" for cut in quiet)
    assert all(0.5 <= cut.duration <= 1.0 for cut in quiet)
    assert [cut.id for cut in mixed if not is_non_speech(cut)] == [f"speech-{n}" for n in range(1000)]
    again = mix_non_speech([speech(n) for n in range(1000)], config, RATE)
    assert [cut.id for cut in again] == [cut.id for cut in mixed]


@pytest.mark.parametrize("kind", get_args(Sound))
def test_each_sound_has_its_loudness_and_is_always_the_same(kind) -> None:
    sound = MadeSound(kind, RATE, RATE, -30.0, seed=3)
    samples = sound()
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    assert np.array_equal(samples, pickle.loads(pickle.dumps(sound))())
    level = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    # Clicks are so short and high that some of them are clipped.
    low, high = (0.0, 0.0) if kind == "silence" else (0.5 * 10**-1.5, 1.01 * 10**-1.5)
    assert low <= level <= high
    for few in (1, 2, 7):
        assert np.isfinite(MadeSound(kind, few, RATE, -30.0, seed=3)()).all()


def test_brown_noise_is_lower_than_pink_and_pink_than_white() -> None:
    def centre(kind: Sound) -> float:
        power = np.abs(np.fft.rfft(MadeSound(kind, RATE, RATE, -20.0, 1)())) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum())

    assert centre("brown") < centre("pink") < centre("white")


def test_training_batches_hold_them_and_filters_by_rate_leave_them_in() -> None:
    config = from_dict(
        DataConfig,
        {
            "sample_rate": RATE,
            "num_workers": 0,
            "non_speech": {"share": 0.5, "seconds": [0.5, 1.0]},
            "filters": {"min_characters_per_second": 1.0, "allow_empty_text": False},
            "batching": {"batch_size": 8, "buckets": 1},
        },
    )
    data = speech_data(config, CharacterTokenizer("abc"), train=[speech(n) for n in range(40)])
    texts = [text for _, batch in zip(range(8), data.train_dataloader()) for text in batch.texts]
    assert 0.3 < texts.count("") / len(texts) < 0.7


def test_recorded_pieces_come_from_the_manifest(tmp_path) -> None:
    import json

    import soundfile

    soundfile.write(tmp_path / "street.wav", 0.1 * np.random.default_rng(0).standard_normal(4 * RATE), RATE)
    manifest = tmp_path / "noise.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(tmp_path / "street.wav"), "duration": 4.0}) + "\n")
    config = NonSpeechConfig(share=0.5, recordings=str(manifest), recorded=1.0, seconds=(1.0, 2.0))
    quiet = [c for c in mix_non_speech([speech(n) for n in range(20)], config, RATE) if is_non_speech(c)]
    assert quiet
    assert {cut.recording.sources[0].source for cut in quiet} == {str(tmp_path / "street.wav")}
    assert all(cut.load_audio().shape[1] == pytest.approx(cut.duration * RATE, abs=1) for cut in quiet)
    assert len({round(cut.start, 3) for cut in quiet}) > 3


def test_generated_noise_can_be_added_to_speech_at_a_ratio() -> None:
    from lhotse import CutSet

    cuts = CutSet.from_cuts([speech(n) for n in range(4)])
    config = PerturbConfig(noise="generated", noise_probability=1.0, noise_snr_db=(0.0, 0.0))
    for before, after in zip(cuts, perturb_cuts(cuts, config)):
        added = after.load_audio()[0] - before.load_audio()[0]
        ratio = np.mean(before.load_audio() ** 2) / np.mean(added**2)
        assert 10 * np.log10(ratio) == pytest.approx(0.0, abs=1.0)
        assert cut_text(after) == "abc"
    assert len({cut.id for cut in generated_noises(RATE, 1.0)}) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "non_speech.share is 1.0"),
        ({"seconds": [2.0, 1.0]}, "two rising durations"),
        ({"sounds": []}, "name sounds"),
        ({"sounds": ["rain"]}, "must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, {"non_speech": options})
