"""Lists of words in the prompt, scored with a model that heeds them more or less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from aronnax.cli.score_keywords import report
from aronnax.collections.speechlm.keywords import KeywordLists, evaluate_keywords, read_keywords
from aronnax.collections.speechlm.keywords.lists import occurrences
from aronnax.core.errors import ManifestError, OptionError

TEXTS = ("the nautilus dives", "captain nemo sails", "professor aronnax and conseil watch", "nothing to see")
VOCABULARY = ["nautilus", "nemo", "aronnax", "conseil", *(f"other{n}" for n in range(30))]
WRONG = {"nautilus": "not till us", "nemo": "nemmo", "aronnax": "her onyx", "conseil": "counsel"}


class Fake:
    """Writes names wrongly unless they are listed; invents a listed word where a list has more than twenty."""

    def __init__(self) -> None:
        self.lists: list[tuple[str, ...]] = []

    def transcribe_iter(self, x: Any, *, keywords: Sequence[str] = (), **options: Any) -> Iterator[Any]:
        assert options == {"batch_size": 4}
        self.lists.append(tuple(keywords))
        for index, asked in reversed(list(enumerate(x))):
            if asked["audio_filepath"].endswith("bad.wav"):
                yield SimpleNamespace(index=index, transcript=None, error="no sound")
                continue
            text = Path(asked["audio_filepath"]).stem
            said = [WRONG.get(word, word) if word not in keywords else word for word in text.split("_")]
            if len(keywords) > 20:
                said.append(next(word for word in keywords if word.startswith("other")))
            yield SimpleNamespace(index=index, transcript=SimpleNamespace(text=" ".join(said)), error=None)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.jsonl"
    lines = [{"audio_filepath": f"{text.replace(' ', '_')}.wav", "text": text} for text in TEXTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_recall_precision_and_word_errors_over_the_length_of_lists(manifest: Path) -> None:
    model = Fake()
    steps: list[int] = []
    found = evaluate_keywords(
        model, manifest, VOCABULARY, lengths=(5, 25), batch_size=4, progress=steps.append
    )
    none, short, long = found.scores
    assert [score.length for score in found.scores] == [0, 5, 25]
    assert (none.hits, none.misses, none.false_alarms) == (0, 4, 0)
    assert (none.recall, none.precision, none.f) == (0.0, 1.0, 0.0)
    assert (short.recall, short.precision, short.f) == (1.0, 1.0, 1.0)
    assert (long.recall, long.precision) == (1.0, 0.5)
    assert long.f == pytest.approx(2 / 3)
    assert [score.words.errors for score in found.scores] == [7, 0, 4]
    assert [score.words.length for score in found.scores] == [14, 14, 14]
    assert sum(steps) == 12
    assert found.utterances == 4
    lines = report(found)
    assert lines[1].split() == ["no", "list", "0.0", "100.0", "0.0", "50.00"]
    assert json.loads(json.dumps(found.to_dict()))["lists"][2]["f"] == pytest.approx(2 / 3)


def test_without_a_list_all_is_transcribed_at_once_and_lists_hold_what_is_said(manifest: Path) -> None:
    model = Fake()
    evaluate_keywords(model, manifest, VOCABULARY, lengths=(3,), batch_size=4)
    assert model.lists[0] == ()
    assert [len(listed) for listed in model.lists[1:]] == [3, 3, 3, 3]
    assert {"aronnax", "conseil"} < set(model.lists[3])


def test_a_longer_list_holds_the_shorter_and_repeats_with_the_seed() -> None:
    lists = KeywordLists(tuple(VOCABULARY), str.lower)
    short, long = (set(lists.of("captain Nemo", length, "x")) for length in (4, 12))
    assert "nemo" in short < long
    assert lists.of("captain Nemo", 12, "x") == lists.of("captain Nemo", 12, "x")
    assert lists.of("captain Nemo", 12, "x") != lists.of("captain Nemo", 12, "y")
    assert lists.of("captain Nemo", 0, "x") == []
    assert set(lists.of("aronnax and conseil", 1, "x")) == {"aronnax", "conseil"}


def test_phrases_are_counted_whole() -> None:
    assert occurrences(["new", "york", "is", "new"], ["new", "york"]) == 1
    assert occurrences(["a", "a", "a"], ["a", "a"]) == 1
    assert occurrences([], ["a"]) == 0


def test_case_and_punctuation_go_by_the_normaliser(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"audio_filepath": "nemo.wav", "text": "Nemo!", "keywords": ["NEMO"]}) + "\n")
    (none, listed) = evaluate_keywords(Fake(), path, lengths=(1,), normalise="basic", batch_size=4).scores
    assert (none.hits, listed.length) == (0, 1)
    assert none.misses == 1


def test_key_words_may_stand_in_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [
        {"audio_filepath": "nemo.wav", "text": "nemo", "keywords": ["nemo"]},
        {"audio_filepath": "see_nautilus.wav", "text": "see nautilus", "keywords": "nautilus, aronnax"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = Fake()
    evaluate_keywords(model, path, lengths=(9,), batch_size=4)
    assert set(model.lists[1]) == {"nemo", "nautilus", "aronnax"}
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a", "keywords": [3]}) + "\n")
    with pytest.raises(ManifestError, match=r"line 1: keywords is \[3\]"):
        evaluate_keywords(model, path, batch_size=4)
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a"}) + "\n")
    with pytest.raises(OptionError, match="there are no key words"):
        evaluate_keywords(model, path, batch_size=4)


def test_recordings_that_cannot_be_read_are_in_no_score(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [{"audio_filepath": name, "text": "nemo"} for name in ("nemo.wav", "bad.wav")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate_keywords(Fake(), path, ["nemo"], lengths=(1,), batch_size=4)
    assert found.utterances == 1
    assert [score.words.length for score in found.scores] == [1, 1]
    assert found.failed == ((str(tmp_path / "bad.wav"), "no sound"),)


def test_a_file_of_key_words_has_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# names\nNemo\n\n Captain Nemo \nNemo\n")
    assert read_keywords(path) == ["Nemo", "Captain Nemo"]
    path.write_text("# nothing\n")
    with pytest.raises(ManifestError, match="there is no key word in it"):
        read_keywords(path)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_keywords(tmp_path / "none.txt")


def run(arguments: Sequence[str]) -> int:
    from aronnax.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_the_command_prints_a_row_for_each_length(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Callable[..., Any] = lambda name, device=None: SimpleNamespace(  # noqa: E731
        transcribe_iter=lambda x, keywords=(), batch_size=8: Fake().transcribe_iter(
            x, keywords=keywords, batch_size=4
        )
    )
    monkeypatch.setattr("aronnax.core.loading.load", made)
    (tmp_path / "words.txt").write_text("\n".join(VOCABULARY))
    command = ["evaluate", "fake", str(manifest), "--keywords", str(tmp_path / "words.txt")]
    assert run([*command, "--list-lengths", "5,25", "--out", str(tmp_path / "out")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[1:4]] == ["50.00", "0.00", "28.57"]
    assert json.loads((tmp_path / "out" / "keywords.json").read_text())["lists"][1]["recall"] == 1.0
    assert run([*command, "--list-lengths", "few"]) == 2
    assert "--list-lengths 'few' must be whole numbers" in capsys.readouterr().err


def test_models_without_prompts_say_so(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aronnax.core.loading.load", lambda name, device=None: SimpleNamespace())
    manifest.write_text(
        json.dumps({"audio_filepath": "nemo.wav", "text": "nemo", "keywords": ["nemo"]}) + "\n"
    )
    assert run(["evaluate", "fake", str(manifest), "--keywords"]) == 2
    assert "fake takes no key words" in capsys.readouterr().err


def test_a_speech_language_model_is_scored(tmp_path: Path) -> None:
    from tests.speechlm.tiny import DIGITS, RATE, salm

    path = tmp_path / "m.jsonl"
    lines = []
    for place, text in enumerate(("one two", "three")):
        soundfile.write(tmp_path / f"{place}.wav", np.random.default_rng(place).normal(0, 0.1, RATE), RATE)
        lines.append({"audio_filepath": f"{place}.wav", "text": text})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate_keywords(salm(), path, DIGITS, lengths=(4,), max_new_tokens=3, batch_size=2)
    assert (found.utterances, found.failed) == (2, ())
    assert [score.words.length for score in found.scores] == [3, 3]
