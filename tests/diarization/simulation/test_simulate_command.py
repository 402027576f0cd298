"""`aronnax simulate`: sessions, labels and a manifest on disk; a stopped run goes on."""

import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from aronnax.cli.simulate import simulate
from aronnax.collections.common.results.rttm import read_rttm
from aronnax.core.errors import ManifestError, OptionError

RATE = 8000


@pytest.fixture
def voices(tmp_path):
    lines = []
    for number in range(4):
        draw = np.random.default_rng(number)
        signal = np.zeros(3 * RATE, np.float32)
        signal[RATE // 2 : -RATE // 2] = draw.uniform(-0.2, 0.2, 2 * RATE)
        soundfile.write(tmp_path / f"{number}.wav", signal, RATE)
        lines.append({"audio_filepath": f"{number}.wav", "duration": 3.0, "speaker": f"s{number % 3}"})
    path = tmp_path / "voices.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_sessions_with_their_labels(voices, tmp_path, capsys):
    out = tmp_path / "made"
    asked = {
        "sessions": 3,
        "speakers": "2,3",
        "seconds": 8.0,
        "turn": 1.0,
        "rate": RATE,
        "noise": "generated",
    }
    simulate(voices, out, **asked)
    assert "3 sessions" in capsys.readouterr().out
    cuts = list(CutSet.from_file(out / "cuts.jsonl.gz"))
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(cuts) == len(lines) == 3
    for cut, line in zip(cuts, lines):
        (turns,) = read_rttm(out / line["rttm_filepath"]).values()
        assert sorted((t.speaker, round(t.start, 5)) for t in turns) == sorted(
            (t.speaker, round(t.start, 5)) for t in cut.supervisions
        )
        signal, rate = soundfile.read(out / line["audio_filepath"])
        assert (len(signal), rate) == (8 * RATE, RATE)
        assert line["num_speakers"] == len({t.speaker for t in turns}) in (2, 3)

    # A stopped run goes on: what is there stays, what is missing is made again and is the same.
    kept, gone = (out / line["audio_filepath"] for line in lines[:2])
    before, stamp = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    simulate(voices, out, **asked)
    assert gone.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp

    with pytest.raises(OptionError, match="other options"):
        simulate(voices, out, **{**asked, "seed": 5})


def test_a_line_without_a_speaker_is_named_with_its_manifest(voices, tmp_path):
    lines = voices.read_text().splitlines()
    lines[2] = json.dumps({"audio_filepath": "2.wav", "duration": 3.0})
    voices.write_text("\n".join(lines) + "\n")
    with pytest.raises(ManifestError, match=rf"^{voices}, line 3 \(2\.wav\): no speaker is named"):
        simulate(voices, tmp_path / "made", sessions=1, speakers="2", seconds=4.0, rate=RATE)


def test_numbers_that_are_none(voices, tmp_path):
    with pytest.raises(OptionError, match="--speakers"):
        simulate(voices, tmp_path / "made", speakers="two")
