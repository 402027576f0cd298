"""Manifests: what a good one gives, and the sentence a bad one gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aronnax.collections.common.data import read_manifest, write_manifest
from aronnax.core.errors import ManifestError


def test_entries_come_in_order_with_paths_beside_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    lines = [
        {"audio_filepath": "a.wav", "duration": 1, "text": "x", "lang": "en", "speaker": "s"},
        {"audio_filepath": "/b.wav", "offset": 0.5},
        {"audio_filepath": "c.wav", "_skipme": True},
        {"audio_filepath": "s3://bucket/d.wav"},
    ]
    assert write_manifest(path, lines) == 4
    first, second, last = read_manifest(path)
    assert first.audio_filepath == str(tmp_path / "a.wav")
    assert (first.duration, first.text, first.language, first.extra) == (1.0, "x", "en", {"speaker": "s"})
    assert (second.audio_filepath, second.offset, second.duration) == ("/b.wav", 0.5, None)
    assert (last.audio_filepath, last.line) == ("s3://bucket/d.wav", 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json}", "line 2: not JSON"),
        ('"a.wav"', "line 2: str instead of an object with named fields; a manifest has one JSON"),
        (
            '{"path": "a.wav", "text": "a"}',
            "line 2: the field audio_filepath is missing; the line has path, text",
        ),
        ('{"audio_filepath": 3}', "line 2: audio_filepath is 3; it must be a path"),
        ('{"audio_filepath": "a.wav", "text": ["a"]}', r"line 2: text is \['a'\]; it must be a string"),
        ('{"audio_filepath": "a.wav", "duration": -1}', r"line 2: duration is negative \(-1\)"),
        ('{"audio_filepath": "a.wav", "offset": -0.5}', r"line 2: offset is negative \(-0.5\)"),
        ('{"audio_filepath": "a.wav", "duration": "1 s"}', "line 2: duration is '1 s'; it must be a number"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "line 2: duration is nan; it must be a number"),
        ('{"audio_filepath": "a.wav", "duration": true}', "line 2: duration is True; it must be a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav"}\n' + line + "\n")
    with pytest.raises(ManifestError, match=rf"{path}, {message}"):
        list(read_manifest(path))


def test_an_offset_beyond_the_end_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": "a.wav", "offset": 1.5}) + "\n")
    with pytest.raises(ManifestError, match=r"line 1: offset 1\.5 s lies beyond the end .* 1\.00 s long"):
        list(read_manifest(path, check_audio=True))


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_manifest_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(content)
    with pytest.raises(ManifestError, match="the manifest is empty"):
        list(read_manifest(path))


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be opened: No such file"):
        list(read_manifest(tmp_path / "none.jsonl"))


def test_an_interrupted_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [{"audio_filepath": "a.wav"}])
    with pytest.raises(ZeroDivisionError):
        write_manifest(path, ({"audio_filepath": str(1 // n)} for n in (1, 0)))
    assert [entry.audio_filepath for entry in read_manifest(path)] == [str(tmp_path / "a.wav")]


def test_reading_manifests_needs_neither_lhotse_nor_lightning_nor_torch() -> None:
    program = (
        "import sys; from aronnax.collections.common.data import read_manifest;"
        "print([name for name in ('lhotse', 'lightning', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
