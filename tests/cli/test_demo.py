"""`aronnax demo`: two voices told apart, on bundled recordings with bundled models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from click import unstyle

from aronnax.cli.demo import RECORDINGS, demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo prints without its fine-tuning, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("aronnax.cli.demo.echo", lambda line: lines.append(unstyle(line)))
        demo(folder, steps=0)
    return "\n".join(lines), folder


def test_each_line_of_the_conversation_is_given_to_who_said_it(shown: tuple[str, Path]) -> None:
    text, _ = shown
    entry = json.loads((RECORDINGS / "conversation.jsonl").read_text())
    turns = [line for line in text.splitlines() if "SPEAKER" in line]
    assert [line.split("s  ", 1)[1] for line in turns] == [
        f"SPEAKER {turn['speaker']}: {turn['text']}  right" for turn in entry["turns"]
    ]


def test_both_pictures_are_drawn(shown: tuple[str, Path]) -> None:
    text, folder = shown
    for name in ("demo.png", "speakers.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert str(folder / name) in text


def test_the_conversation_is_small_and_as_long_as_its_manifest_says() -> None:
    entry = json.loads((RECORDINGS / "conversation.jsonl").read_text())
    recording = RECORDINGS / entry["audio_filepath"]
    assert recording.stat().st_size < 100_000
    assert soundfile.info(recording).duration == pytest.approx(entry["duration"], abs=0.01)
    ends = [turn["end"] for turn in entry["turns"]]
    assert all(end < turn["start"] for end, turn in zip(ends, entry["turns"][1:]))
