from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.results.diarization import Diarization
from aronnax.collections.diarization import diarizing
from aronnax.collections.diarization.diarizing import Options, diarize_iter
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.errors import AronnaxError, AudioError, OptionError
from tests.diarization.conftest import tiny


@pytest.fixture(scope="module")
def recording(session: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "two words.wav"
    soundfile.write(path, session, 16000, subtype="FLOAT")
    return path


def test_a_path_an_array_and_a_manifest_give_the_same(
    model: SortformerModel, recording: Path, session: np.ndarray, tmp_path: Path
) -> None:
    by_path = model.diarize(recording)
    assert isinstance(by_path, Diarization)
    assert by_path.turns
    assert by_path.duration == pytest.approx(40.0)
    assert by_path.probabilities is not None
    assert by_path.probabilities.shape == (500, 4)
    assert by_path.notes[0].startswith("heard at once")
    assert by_path.to_rttm().startswith("SPEAKER two_words 1 ")
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(recording), "duration": None}) + "\n")
    others = [
        model.diarize((session, 16000)),
        model.diarize(torch.from_numpy(session), sample_rate=16000),
        *model.diarize(manifest),
        *model.diarize([recording, (session[:50000], 16000)], batch_size=2)[:1],
    ]
    for other in others:
        assert other.turns == by_path.turns
        np.testing.assert_allclose(other.probabilities, by_path.probabilities, atol=1e-5)


def test_long_recordings_are_streamed_and_the_choice_is_told(
    model: SortformerModel, session: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diarizing, "OFFLINE_SECONDS", 30.0)
    heard = []
    long = model.diarize((session, 16000), progress=heard.append)
    assert long.notes[0] == "streamed with 30.4 s latency: longer than 30 s"
    assert sum(heard) == pytest.approx(40.0)
    stream = model.stream(latency=30.4)
    same = torch.cat([stream.push(session), stream.finish()]).numpy()
    np.testing.assert_array_equal(long.probabilities, same)
    asked = model.diarize((session, 16000), latency="offline")
    assert asked.notes[0] == "heard at once, as asked"
    assert "1.04 s latency, as asked" in model.diarize((session, 16000), latency=1.04).notes[0]


def test_models_that_cannot_stream_hear_long_recordings_at_once_and_say_so(session: np.ndarray) -> None:
    model = tiny(preprocessor=LogMelConfig(n_mels=16), streaming=False)
    found = model.diarize((np.tile(session, 3), 16000))
    assert "this model cannot be streamed" in found.notes[0]
    with pytest.raises(OptionError, match="over the whole recording"):
        model.diarize((session, 16000), latency=1.04)


def test_channels_kept_apart_are_heard_one_by_one(model: SortformerModel, session: np.ndarray) -> None:
    other = np.roll(session, 99999)
    call = np.stack([session, other], 1)
    found = model.diarize((call, 16000), channels="apart", num_speakers=1)
    alone = [model.diarize((one, 16000), num_speakers=1) for one in (session, other)]
    assert found.probabilities.shape == (500, 2)
    for channel, one in enumerate(alone):
        turns = [turn for turn in found.turns if turn.speaker.startswith(f"channel_{channel}_")]
        assert [(turn.start, turn.end) for turn in turns] == [(turn.start, turn.end) for turn in one.turns]
    assert model.diarize((call, 16000)).probabilities.shape == (500, 4)


def test_what_others_say_goes_to_the_likeliest_of_the_speakers_expected(
    model: SortformerModel, session: np.ndarray
) -> None:
    heard = model.diarize((session, 16000)).probabilities
    found = model.diarize((session, 16000), num_speakers=2)
    kept = heard[:, [int(name.removeprefix("speaker_")) for name in found.names]]
    likeliest = kept.argmax(1)
    rows = np.arange(len(kept))
    np.testing.assert_array_equal(found.probabilities[rows, 1 - likeliest], kept[rows, 1 - likeliest])
    np.testing.assert_allclose(
        found.probabilities[rows, likeliest],
        np.minimum(1, heard.sum(1) - kept[rows, 1 - likeliest]),
        atol=1e-6,
    )
    assert len(found.names) == 2
    assert found.probabilities.max() > kept.max()


def test_thresholds_and_presets_change_the_turns(model: SortformerModel, session: np.ndarray) -> None:
    plain, strict = (model.diarize((session, 16000), onset=onset) for onset in (None, 0.9))
    assert sum(t.duration for t in strict.turns) < sum(t.duration for t in plain.turns)
    padded = model.diarize((session, 16000), preset="callhome-v2")
    assert all(turn.end <= 40.0 and turn.start >= 0 for turn in padded.turns)
    assert min(turn.duration for turn in padded.turns if turn.end < 40) > 0.51
    assert all(0 <= turn.confidence <= 1 for turn in plain.turns)


def test_silence_gives_no_turns_and_a_note(model: SortformerModel) -> None:
    quiet = model.diarize((np.zeros(16000 * 3, np.float32), 16000), onset=1.0)
    assert quiet.turns == ()
    assert quiet.notes[-1] == "nobody speaks: no probability rises above the onset"
    assert quiet.to_rttm() == ""


def test_a_recording_shorter_than_a_frame_gives_no_turns(model: SortformerModel) -> None:
    for samples in (1, 100, 161):
        found = model.diarize((np.zeros(samples, np.float32), 16000))
        assert found.probabilities.shape[1] == 4
        assert all(turn.end <= samples / 16000 for turn in found.turns)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency": 3}, "latency=3 is not one of"),
        ({"latency": "live"}, "'offline'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"channels": "left"}, "'mix' or 'apart'"),
        ({"num_speakers": 5}, "at most 4 speakers"),
        ({"preset": "ami"}, "dihard3-v2"),
        ({"onset": 2.0}, "probability between 0 and 1"),
        ({"pad_onset": -1.0}, "pad_onset=-1.0"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(model: SortformerModel, options: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        model.diarize((np.zeros(1600, np.float32), 16000), **options)


def test_bad_recordings_are_refused_and_the_others_go_on(
    model: SortformerModel, recording: Path, session: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = session.copy()
    broken[12345] = np.nan
    with pytest.raises(AudioError, match="sample 12345"):
        model.diarize((broken, 16000))
    with pytest.raises(AudioError, match="without its sample rate"):
        model.diarize(broken)
    options = Options.checked(model)
    inputs = [recording, Path("no/such/file.wav"), (broken, 16000), recording]
    results = {result.index: result for result in diarize_iter(model, inputs, options)}
    assert [isinstance(results[index].error, AronnaxError) for index in range(4)] == [
        False,
        True,
        True,
        False,
    ]
    monkeypatch.setattr(diarizing, "OFFLINE_SECONDS", 1.0)
    assert "sample 12345" in str(next(iter(diarize_iter(model, [(broken, 16000)], options))).error)


def test_a_model_in_training_mode_is_refused(session: np.ndarray) -> None:
    with pytest.raises(OptionError, match="training mode"):
        tiny().train().diarize((session, 16000))
