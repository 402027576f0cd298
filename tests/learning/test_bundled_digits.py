"""The bundled digit model on speech it was not trained on."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import aronnax
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.metrics import score

BUNDLED = Path(aronnax.__file__).parent / "bundled"


@pytest.fixture(scope="module")
def model() -> SpeechRecognizer:
    loaded = aronnax.load("digits", device="cpu")
    assert isinstance(loaded, SpeechRecognizer)
    return loaded


@pytest.fixture(scope="module")
def held_aside() -> list[tuple[np.ndarray, str]]:
    """Strings of 1 to 7 digits out of FSDD's test split, which the model was not trained on."""
    if "ARONNAX_DATA" not in os.environ:
        pytest.skip("ARONNAX_DATA does not name the folder that holds fsdd")
    folder, chance = Path(os.environ["ARONNAX_DATA"]) / "fsdd", random.Random(3)
    takes: dict[str, list[dict[str, str]]] = {}
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] == "test":
            takes.setdefault(entry["speaker"], []).append(entry)
    strings = []
    for speaker in sorted(takes):
        for count in range(1, 8):
            chosen = chance.sample(takes[speaker], count)
            pieces = []
            for entry in chosen:
                pieces.append(soundfile.read(folder / entry["audio_filepath"], dtype="float32")[0])
                pieces.append(np.zeros(chance.randrange(3000), np.float32))
            strings.append((np.concatenate(pieces), " ".join(entry["text"] for entry in chosen)))
    return strings


@pytest.mark.parametrize("head", ["tdt", "ctc"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_known_speakers_new_takes_are_recognised(
    model: SpeechRecognizer, held_aside: list[tuple[np.ndarray, str]], rate: int, head: str
) -> None:
    sources = [(audio if rate == 8000 else soxr.resample(audio, 8000, rate), rate) for audio, _ in held_aside]
    texts = [transcript.text for transcript in model.transcribe(sources, head=head)]
    assert score([text for _, text in held_aside], texts).wer < 0.03


def test_the_recordings_of_the_demo_are_recognised(model: SpeechRecognizer) -> None:
    folder = BUNDLED / "recordings"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    transcripts = model.transcribe([folder / entry["audio_filepath"] for entry in entries])
    assert score([entry["text"] for entry in entries], [t.text for t in transcripts]).wer < 0.1
    for entry, transcript in zip(entries, transcripts):
        assert transcript.duration == pytest.approx(entry["duration"], abs=0.01)
        starts = [word.start for word in transcript.words]
        assert starts == sorted(starts)
        assert all(0 <= word.confidence <= 1 for word in transcript.words)


def test_the_bundle_is_small_and_says_where_its_data_come_from() -> None:
    files = list((BUNDLED / "digits").iterdir())
    assert sum(file.stat().st_size for file in files) <= 5_000_000
    card = (BUNDLED / "digits" / "README.md").read_text()
    for needed in (
        "CC BY-SA 4.0",
        "Free Spoken Digit Dataset",
        "espeak-ng",
        "examples/asr/digits/folds.py",
        "WER",
    ):
        assert needed in card, needed
