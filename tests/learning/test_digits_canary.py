"""The bundled prompted digit model: four languages, with and without punctuation, and silence where nobody speaks."""

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
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.common.metrics import score

BUNDLED = Path(aronnax.__file__).parent / "bundled"
WORDS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
    "fr": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "es": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
}


def said(text: str, language: str, pnc: bool) -> str:
    """English digit words in another language."""
    words = [WORDS[language][WORDS["en"].index(word)] for word in text.split()]
    return (", ".join(words) + ".").capitalize() if pnc else " ".join(words)


@pytest.fixture(scope="module")
def model() -> CanaryModel:
    loaded = aronnax.load("digits-canary", device="cpu")
    assert isinstance(loaded, CanaryModel)
    return loaded


@pytest.fixture(scope="module")
def recordings() -> tuple[list[Path], list[str]]:
    lines = (BUNDLED / "recordings" / "manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [BUNDLED / "recordings" / entry["audio_filepath"] for entry in entries], [
        e["text"] for e in entries
    ]


@pytest.fixture(scope="module")
def held_aside() -> tuple[list[np.ndarray], list[str]]:
    """Strings of 1 to 7 digits out of FSDD's test split, which the model was not trained on."""
    if "ARONNAX_DATA" not in os.environ:
        pytest.skip("ARONNAX_DATA does not name the folder that holds fsdd")
    folder, chance = Path(os.environ["ARONNAX_DATA"]) / "fsdd", random.Random(4)
    takes: dict[str, list[dict[str, str]]] = {}
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] == "test":
            takes.setdefault(entry["speaker"], []).append(entry)
    audios, texts = [], []
    for speaker in sorted(takes):
        for count in range(1, 8):
            chosen, pieces = chance.sample(takes[speaker], count), []
            for entry in chosen:
                pieces.append(soundfile.read(folder / entry["audio_filepath"], dtype="float32")[0])
                pieces.append(np.zeros(chance.randrange(3000), np.float32))
            audios.append(np.concatenate(pieces))
            texts.append(" ".join(entry["text"] for entry in chosen))
    return audios, texts


@pytest.mark.parametrize("pnc", [False, True])
@pytest.mark.parametrize("language", list(WORDS))
def test_the_recordings_are_written_in_every_language_and_form(
    model: CanaryModel, recordings: tuple[list[Path], list[str]], language: str, pnc: bool
) -> None:
    paths, texts = recordings
    written = [t.text for t in model.transcribe(paths, target_lang=language, pnc=pnc)]
    assert score([said(text, language, pnc) for text in texts], written).wer < 0.15


@pytest.mark.parametrize("language", list(WORDS))
@pytest.mark.parametrize("rate", [8000, 16000])
def test_known_speakers_new_takes_are_written_in_every_language(
    model: CanaryModel, held_aside: tuple[list[np.ndarray], list[str]], language: str, rate: int
) -> None:
    audios, texts = held_aside
    sources = [(audio if rate == 8000 else soxr.resample(audio, 8000, rate), rate) for audio in audios]
    written = [t.text for t in model.transcribe(sources, target_lang=language, pnc=False)]
    assert score([said(text, language, False) for text in texts], written).wer < 0.03


def test_right_words_are_told_with_confidence(
    model: CanaryModel, recordings: tuple[list[Path], list[str]]
) -> None:
    paths, texts = recordings
    right = [found for found, text in zip(model.transcribe(paths, pnc=False), texts) if found.text == text]
    assert len(right) > len(texts) / 2
    assert all(word.confidence is not None and word.confidence > 0.3 for one in right for word in one.words)


def test_only_the_target_language_changes_the_language(
    model: CanaryModel, recordings: tuple[list[Path], list[str]]
) -> None:
    paths, _ = recordings
    for language, words in WORDS.items():
        written = [t.text.split() for t in model.transcribe(paths, target_lang=language, pnc=False)]
        assert all(text and set(text) <= set(words) for text in written)


def test_nothing_is_written_where_nobody_speaks(model: CanaryModel) -> None:
    chance = np.random.default_rng(1)
    time = np.arange(5 * 16000) / 16000
    sounds = [
        np.zeros(len(time)),
        1e-4 * chance.standard_normal(len(time)),
        0.1 * chance.standard_normal(len(time)),
        0.2 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 660 * time),
        0.2 * np.sin(2 * np.pi * 50 * time) + 1e-3 * chance.standard_normal(len(time)),
    ]
    written = [t.text for t in model.transcribe([(s.astype(np.float32), 16000) for s in sounds])]
    assert written == [""] * len(sounds)


def test_the_bundle_is_small_and_says_where_its_data_come_from() -> None:
    files = [file for file in (BUNDLED / "digits-canary").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    card = (BUNDLED / "digits-canary" / "README.md").read_text()
    for needed in (
        "CC BY-SA 4.0",
        "Free Spoken Digit Dataset",
        "espeak-ng",
        "examples/asr/digits_canary/folds.py",
        "WER",
    ):
        assert needed in card, needed
