"""Simulated sessions as audio: sample-exact labels, files, and a stopped run that goes on."""

import numpy as np
import pytest
import soundfile

from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.sessions import SimulatedSessions, write_sessions
from aronnax.collections.diarization.simulation.voices import Voices
from aronnax.core.errors import ManifestError

RATE = 8000


class Burst:
    """Noise with silence before and after it, always the same."""

    def __init__(self, seed, seconds):
        self.seed, self.seconds = seed, seconds

    @property
    def samples(self):
        return round((self.seconds + 1.0) * RATE)

    def __call__(self):
        samples = np.zeros(self.samples, np.float32)
        length = round(self.seconds * RATE)
        samples[RATE // 2 : RATE // 2 + length] = np.random.default_rng(self.seed).uniform(-0.2, 0.2, length)
        return samples


def pool(speakers=3, texts=False):
    cuts = []
    for number in range(speakers * 4):
        burst = Burst(number, 1.0 + number % 5)
        text = f"text {number}" if texts else ""
        cuts.append(made_cut(burst, burst.samples, RATE, text, f"u{number}", speaker=f"s{number % speakers}"))
    return cuts


CONFIG = SimulationConfig(seconds=20.0, speakers=(2, 3), gain_db=(0.0, 0.0), turn_seconds=1.5)


def test_labels_are_exact_to_the_sample():
    for cut in SimulatedSessions(Voices(pool(), RATE), CONFIG, seed=1, count=5):
        signal = cut.load_audio()[0]
        assert len(signal) == cut.num_samples == 20 * RATE
        expected = np.zeros_like(signal)
        active = np.zeros(len(signal), bool)
        for track in cut.tracks[1:]:
            piece = track.cut.load_audio()[0]
            at = round(track.offset * RATE)
            expected[at : at + len(piece)] += piece
        for turn in cut.supervisions:
            start, stop = turn.start * RATE, turn.end * RATE
            assert start == pytest.approx(round(start), abs=1e-3)
            active[round(start) : round(stop)] = True
        np.testing.assert_allclose(signal, expected, atol=1e-6)
        assert not signal[~active].any()
        assert np.mean(signal[active] != 0.0) > 0.85


def test_a_session_follows_from_seed_and_number_alone(tmp_path):
    room = np.zeros(800, np.float32)
    room[[0, 120, 333]] = 0.9, 0.3, 0.1
    soundfile.write(tmp_path / "room.wav", room, RATE)
    manifest = tmp_path / "rooms.jsonl"
    manifest.write_text('{"audio_filepath": "room.wav", "duration": 0.1}\n')
    config = SimulationConfig(seconds=10.0, speakers=(2,), speeds=(0.9, 1.1), rooms=str(manifest))
    first, second = (SimulatedSessions(Voices(pool(), RATE), config, seed=4) for _ in range(2))
    for number in (3, 0):
        one, other = first.session(number), second.session(number)
        assert [s.start for s in one.supervisions] == [s.start for s in other.supervisions]
        np.testing.assert_array_equal(one.load_audio(), other.load_audio())
        assert one.num_samples == one.load_audio().shape[1] == 10 * RATE


def test_whole_utterances_keep_their_texts():
    config = SimulationConfig(seconds=30.0, speakers=(2,), whole_utterances=True, overlap=0.2)
    cut = SimulatedSessions(Voices(pool(texts=True), RATE, whole=True), config).session(0)
    assert all(turn.text.startswith("text ") for turn in cut.supervisions)
    assert cut.duration == max(turn.end for turn in cut.supervisions)


def test_written_sessions_have_audio_rttm_and_cuts_and_are_not_made_twice(tmp_path):
    sessions = list(SimulatedSessions(Voices(pool(), RATE), CONFIG, count=2))
    made = list(write_sessions(sessions, tmp_path))
    assert [cut.id for cut in made] == ["session-0-000000", "session-0-000001"]
    signal, rate = soundfile.read(tmp_path / "audio" / "session-0-000000.flac", dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(signal, sessions[0].load_audio()[0], atol=1e-4)
    lines = (tmp_path / "rttm" / "session-0-000000.rttm").read_text().splitlines()
    assert len(lines) == len(sessions[0].supervisions)
    first = min(sessions[0].supervisions, key=lambda turn: turn.start)
    assert float(lines[0].split()[3]) == pytest.approx(first.start, abs=1e-6)
    assert lines[0].split()[7] == first.speaker
    before = (tmp_path / "audio" / "session-0-000000.flac").stat().st_mtime_ns
    (tmp_path / "rttm" / "session-0-000001.rttm").unlink()
    write_sessions(sessions, tmp_path)
    assert (tmp_path / "audio" / "session-0-000000.flac").stat().st_mtime_ns == before
    assert (tmp_path / "rttm" / "session-0-000001.rttm").is_file()


def test_a_recording_without_a_speaker_is_named():
    with pytest.raises(ManifestError, match=r"u9.*: no speaker is named"):
        Voices([made_cut(Burst(0, 1.0), Burst(0, 1.0).samples, RATE, "", "u9")], RATE)
