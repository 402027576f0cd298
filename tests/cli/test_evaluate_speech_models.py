"""`aronnax evaluate` asks speech language models for transcripts, as `transcribe` does, and scores them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("transformers")

from aronnax.cli.main import main
from aronnax.collections.common.metrics import score
from tests.speechlm import tiny
from tests.speechlm.bestow.conftest import bestow

TEXTS = ["one two", "three"]
MODELS: dict[str, Callable[[], Any]] = {
    "salm": lambda: tiny.salm(context=48),
    "voicetextblender": lambda: tiny.voicetextblender(context=48),
    "bestow": lambda: bestow(context=20),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for number, text in enumerate(TEXTS):
        soundfile.write(tmp_path / f"{number}.wav", *tiny.noise(1.0 + number / 2, number))
        lines.append({"audio_filepath": f"{number}.wav", "duration": 1.0 + number / 2, "text": text})
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["aronnax", "evaluate", *map(str, arguments), "--device", "cpu"])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("name", MODELS)
def test_rates_are_those_of_what_transcribe_says(
    name: str, manifest: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    model = MODELS[name]()
    folder, out = model.save_pretrained(tmp_path / "model"), tmp_path / "out"
    for prompt in (None, "what is" if name != "bestow" else "how many"):
        asked = [] if prompt is None else ["--prompt", prompt]
        assert evaluate(monkeypatch, folder, manifest, "--out", out, *asked) == 0
        said = [one.text for one in model.transcribe(str(manifest), prompt=prompt)]
        printed = capsys.readouterr().out
        assert f"WER {score(TEXTS, said).words}" in printed
        assert "2 utterances, 2.5 s of audio" in printed
        assert "real-time factor" in printed
        rows = [json.loads(line) for line in (out / "utterances.jsonl").read_text().splitlines()]
        assert [row["pred_text"] for row in rows] == said


def test_a_recording_that_cannot_be_read_is_named_and_the_others_scored(
    manifest: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "1.wav").write_bytes(b"broken")
    folder = tiny.salm(context=48).save_pretrained(tmp_path / "model")
    assert evaluate(monkeypatch, folder, manifest) == 1
    printed = capsys.readouterr()
    assert "1 utterance, 1.0 s" in printed.out
    assert "1.wav" in printed.err


def test_options_of_recognisers_are_refused(
    manifest: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder = tiny.salm(context=48).save_pretrained(tmp_path / "model")
    assert evaluate(monkeypatch, folder, manifest, "--head", "ctc") == 2
    assert "takes --prompt, so --head cannot be given" in capsys.readouterr().err
