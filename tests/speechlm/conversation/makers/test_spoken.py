"""Parts of written questions spoken: the span rule, the files, and going on after a kill."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aronnax.collections.speechlm.conversation.makers.sentences import draw_span, parted, sentences
from aronnax.collections.speechlm.conversation.makers.spoken import SpokenConfig, make_spoken, spoken_question
from aronnax.collections.speechlm.conversation.reading import read_conversations
from aronnax.core.errors import OptionError

Write = Callable[..., Path]
QUESTIONS = [
    "What is the sea?",
    "Look at the sea.  It is blue!\nWhy is it so?",
    " Mr. Nemo has a ship. What is it called? I forgot. Help me. Please. ",
    "名前は何ですか。教えて！",
]


def tone(text: str, seed: int) -> tuple[np.ndarray, int]:
    """A tenth of a second and as much as its text is long; its pitch tells the seed."""
    samples = np.sin(np.arange(80 * len(text) + 800) * (0.05 + seed % 100 / 1000))
    return samples.astype(np.float32), 8000


def rows(*questions: str, answer: str = "because.", **fields: Any) -> list[dict[str, Any]]:
    return [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": answer}], **fields}
        for q in questions
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four… Five", 5),
        ('He said "stop." Then he left.', 2),
        ("Use e.g. this one. Dr. J. Verne wrote it.", 2),
        ("It costs 3.50 in all. ok.", 1),
        ("a list:\n- one\n- two", 3),
        ("我知道。你呢？好", 3),
        ("no end at all", 1),
        ("  \n ", 1),
        ("Trailing blanks.  \n\n", 1),
    ],
)
def test_sentences_are_found_and_joined_they_are_the_text(text: str, count: int) -> None:
    found = sentences(text)
    assert len(found) == count
    assert "".join(found) == text


def test_spans_begin_anywhere_and_end_anywhere_after_that() -> None:
    rng = random.Random(0)
    draws = [draw_span(5, rng) for _ in range(10_000)]
    begins = [sum(begin == place for begin, _ in draws) for place in range(5)]
    # 13.28 is the 99th percentile of chi-square with four degrees of freedom.
    assert sum((count - 2000) ** 2 / 2000 for count in begins) < 13.28
    for begin, degrees, limit in ((0, 4, 13.28), (3, 1, 6.63)):
        ends = [sum((begin, end) == draw for draw in draws) for end in range(begin + 1, 6)]
        expected = sum(ends) / len(ends)
        assert len(ends) == degrees + 1
        assert sum((count - expected) ** 2 / expected for count in ends) < limit
    assert {end for begin, end in draws if begin == 4} == {5}


def test_every_span_rejoins_to_the_question() -> None:
    rng = random.Random(1)
    for text in QUESTIONS:
        parts = sentences(text.strip())
        for _ in range(200):
            before, spoken, after = parted(parts, *draw_span(len(parts), rng))
            assert before + spoken + after == text.strip()
            assert spoken == spoken.strip() != ""


def test_each_version_has_one_recording_of_exactly_the_missing_words(
    write_lines: Write, tmp_path: Path
) -> None:
    source = write_lines(*rows(*QUESTIONS))
    made = make_spoken(source, tmp_path / "out", SpokenConfig(), tone)
    lines = [json.loads(line) for line in made.path.read_text().splitlines()]
    assert [line["id"] for line in lines] == [
        f"conversations-{number}-{version}"
        for number in (1, 2, 3, 4)
        for version in range(1 if number == 1 else 2)
    ]
    assert made.conversations == 7
    for line, found in zip(lines, read_conversations(made.path)):
        assert spoken_question(line) == QUESTIONS[int(line["id"].split("-")[1]) - 1].strip()
        (audio,) = found.messages[0].audios
        sound = soundfile.info(audio.source)
        assert (sound.samplerate, sound.format) == (16000, "FLAC")
        assert sound.frames == pytest.approx(160 * len(line["spoken"]) + 1600, abs=4)
        assert audio.duration == pytest.approx(sound.duration)
        assert found.messages[-1].text() == "because."
        assert found.extra["task"] == "spoken"
    assert str(tmp_path) not in made.path.read_text()


def test_two_versions_have_other_speakers_and_another_seed_other_spans(
    write_lines: Write, tmp_path: Path
) -> None:
    source = write_lines(*rows(*QUESTIONS * 5))

    def spoken(seed: int) -> list[str]:
        made = make_spoken(source, tmp_path / str(seed), SpokenConfig(seed=seed), tone)
        return [json.loads(line)["spoken"] for line in made.path.read_text().splitlines()]

    assert spoken(0) != spoken(1)


def test_what_does_not_suit_is_left_out_by_reason(write_lines: Write, tmp_path: Path) -> None:
    source = write_lines(
        *rows("Add these.", task_category="Math"),
        *rows("Plan this.", task_category="Planning", language="EN"),
        *rows("Plane das.", language="de"),
        *rows("long " * 128),
        *rows("short", answer="long " * 1024),
        *rows("x" * 50_000),
        *rows("fits"),
    )
    made = make_spoken(source, tmp_path / "out", SpokenConfig(), tone)
    assert made.conversations == 2
    assert made.left_out == {
        "of another category": 1,
        "in another language": 1,
        "with a question of 128 tokens or more": 1,
        "with an answer of 1024 tokens or more": 1,
        "with a recording outside 0.1 to 40 s": 1,
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_spoken import tone
from aronnax.collections.speechlm.conversation.makers.spoken import SpokenConfig, make_spoken
calls = [0]
def deadly(text, seed):
    calls[0] += 1
    if calls[0] == 5:
        os.kill(os.getpid(), 9)
    return tone(text, seed)
make_spoken(Path(sys.argv[1]), Path(sys.argv[2]), SpokenConfig(), deadly)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_files(write_lines: Write, tmp_path: Path) -> None:
    source = write_lines(*rows(*QUESTIONS * 3))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make_spoken(source, whole, SpokenConfig(), tone)
    command = [sys.executable, "-c", KILLED, str(source), str(killed), os.path.dirname(__file__)]
    assert subprocess.run(command, check=False).returncode == -9
    assert not (killed / "conversations.jsonl").exists()
    journal = killed / "journal.jsonl"
    done = journal.read_text().count("\n")
    assert done == 2
    # As if the machine had stopped in the middle of writing the next line.
    journal.write_text(journal.read_text() + '{"source": 3, "rows": [{"id"')
    spoken: list[str] = []

    def listening(text: str, seed: int) -> tuple[np.ndarray, int]:
        spoken.append(text)
        return tone(text, seed)

    made = make_spoken(source, killed, SpokenConfig(), listening)
    assert len(spoken) == made.conversations - 3
    assert contents(killed) == contents(whole)
    assert make_spoken(source, killed, SpokenConfig(), listening).conversations == made.conversations
    assert len(spoken) == made.conversations - 3


def test_a_folder_is_not_gone_on_with_in_another_way(write_lines: Write, tmp_path: Path) -> None:
    source = write_lines(*rows(*QUESTIONS))
    make_spoken(source, tmp_path / "out", SpokenConfig(), tone)
    with pytest.raises(OptionError, match="made with other options"):
        make_spoken(source, tmp_path / "out", SpokenConfig(seed=1), tone)
    with pytest.raises(OptionError, match="made with other options"):
        make_spoken(source, tmp_path / "out", SpokenConfig(), tone, voices="others")


def test_espeak_speaks_on_the_command_line(
    write_lines: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("espeakng_loader")
    from aronnax.cli.main import main

    source = write_lines(*rows("What is this? Tell me."))
    with pytest.raises(SystemExit) as stopped:
        main(["make-spoken", str(source), "--out", str(tmp_path / "out"), "--voices", "en-us"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "out/conversations.jsonl: 2 conversations" in said
    first, _ = read_conversations(tmp_path / "out" / "conversations.jsonl")
    samples, rate = soundfile.read(first.messages[0].audios[0].source)
    assert rate == 16000
    assert np.abs(samples).max() > 0.05
    with pytest.raises(SystemExit):
        main(["make-spoken", str(source), "--out", str(tmp_path / "x"), "--voices", "klingon-x"])
    assert "espeak-ng has no such voice" in capsys.readouterr().err
