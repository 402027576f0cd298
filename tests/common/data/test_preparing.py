"""`aronnax prepare`: corpora and folders become manifests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aronnax.cli.prepare import prepare
from aronnax.collections.common.data import read_manifest
from aronnax.core.errors import ManifestError, OptionError


def tone(path: Path, seconds: float = 0.2, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((round(8000 * seconds), channels)), 8000)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_fsdd_recordings_become_train_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0_ann_0", "7_ann_4", "7_bob_5", "9_bob_12", "notes_x"):
        tone(tmp_path / "repo" / "recordings" / f"{name}.wav")
    prepare("fsdd", tmp_path / "repo", tmp_path / "out")
    assert [line["text"] for line in lines(tmp_path / "out" / "test.jsonl")] == ["zero", "seven"]
    train = lines(tmp_path / "out" / "train.jsonl")
    assert [(line["text"], line["speaker"], line["lang"]) for line in train] == [
        ("seven", "bob", "en"),
        ("nine", "bob", "en"),
    ]
    assert "not named DIGIT_SPEAKER_TAKE" in capsys.readouterr().out


def test_a_folder_of_audio_with_texts_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    tone(source / "a.wav")
    tone(source / "deep" / "b.flac", 0.5, channels=2)
    tone(source / "c.wav")
    (source / "d.wav").write_bytes(b"junk")
    (source / "a.txt").write_text("one\n two ")
    (source / "deep" / "b.txt").write_text("drei")
    (source / "d.txt").write_text("x")
    prepare("folder", source, source)
    first, second = lines(source / "all.jsonl")
    assert (first["audio_filepath"], first["text"], first["duration"]) == ("a.wav", "one two", 0.2)
    assert (second["audio_filepath"], second["num_channels"]) == ("deep/b.flac", 2)
    assert [entry.text for entry in read_manifest(source / "all.jsonl", check_audio=True)] == [
        "one two",
        "drei",
    ]
    printed = capsys.readouterr().out
    assert "without a .txt beside it" in printed
    assert "not readable as audio" in printed


@pytest.mark.parametrize("table", ["path\tsentence\n%s\thello\n", "%s\thello\n"])
def test_a_table_names_recordings_and_texts(tmp_path: Path, table: str) -> None:
    tone(tmp_path / "clips" / "a.wav")
    (tmp_path / "validated.tsv").write_text(table % "a.wav")
    prepare("folder", tmp_path, tmp_path / "out")
    (line,) = lines(tmp_path / "out" / "all.jsonl")
    assert line["text"] == "hello"
    assert os.path.samefile(str(line["audio_filepath"]), tmp_path / "clips" / "a.wav")


def test_parts_are_chosen_or_dealt_anew(tmp_path: Path) -> None:
    for take in range(20):
        tone(tmp_path / "r" / f"1_ann_{take}.wav", 0.1)
    prepare("fsdd", tmp_path / "r", tmp_path / "a", split="test")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["test.jsonl"]
    prepare("fsdd", tmp_path / "r", tmp_path / "b", split="train:0.75,dev:0.25")
    dealt = [lines(tmp_path / "b" / f"{name}.jsonl") for name in ("train", "dev")]
    assert [len(part) for part in dealt] == [15, 5]
    assert len({line["audio_filepath"] for part in dealt for line in part}) == 20
    with pytest.raises(OptionError, match=r"add up to 0\.9"):
        prepare("fsdd", tmp_path / "r", tmp_path / "c", split="train:0.5,dev:0.4")
    with pytest.raises(OptionError, match=r"no part 'tst'; did you mean test"):
        prepare("fsdd", tmp_path / "r", tmp_path / "c", split="tst")


def test_librispeech_goes_through_lhotses_recipe(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "dev-clean-2" / "84" / "121123"
    tone(chapter / "84-121123-0000.flac", 0.3)
    tone(chapter / "84-121123-0001.flac", 0.4)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n84-121123-0001 DO YOU HEAR\n")
    prepare("librispeech", tmp_path / "LibriSpeech", tmp_path / "out")
    first, second = lines(tmp_path / "out" / "dev-clean-2.jsonl")
    assert {str(first["text"]), str(second["text"])} == {"GO", "DO YOU HEAR"}
    assert first["speaker"] == "84"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("librispech", "no recipe 'librispech'; did you mean librispeech"),
        ("ami", "."),
        ("heroico", "also needs transcript_dir"),
        ("callhome_english", "also needs rttm_dir"),
    ],
)
def test_an_impossible_recipe_is_explained(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises((OptionError, ManifestError), match=message):
        prepare(recipe, tmp_path, tmp_path / "out")


def test_an_empty_or_missing_source_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nothing found that the recipe 'folder' can use; it takes audio"):
        prepare("folder", tmp_path, tmp_path / "out")
    with pytest.raises(ManifestError, match="no such file or folder"):
        prepare("folder", tmp_path / "none", tmp_path / "out")
