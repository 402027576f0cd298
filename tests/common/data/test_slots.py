"""Prompt slots travel with the recordings of every kind of input, and what is missing is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aronnax.collections.common.data.config import DataConfig, InputConfig, read_inputs
from aronnax.collections.common.data.filters import cut_language, cut_place, cut_text
from aronnax.collections.common.data.preparing import Notes, prepare, write_parts
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.slots import cut_slots
from aronnax.collections.common.data.sources import Inputs
from aronnax.core.config import from_dict, to_dict
from aronnax.core.errors import ConfigError, ManifestError

Write = Callable[..., Path]
GERMAN = {"source_lang": "en", "target_lang": "de", "pnc": True}


def opened(*inputs: Any, required: tuple[str, ...] = ()) -> Inputs:
    described = read_inputs(list(inputs), "data.train")
    return Inputs(described, Dropped(), shuffle=False, seed=0, required=required)


def rewrite(path: Path, *lines: dict[str, Any]) -> Path:
    """Replace the manifest's lines, all of them of its first recording."""
    text = "".join(json.dumps({"audio_filepath": "0.wav", **line}) + "\n" for line in lines)
    path.write_text(text)
    return path


def test_one_recording_may_have_a_line_for_each_task_and_language(write_corpus: Write) -> None:
    path = rewrite(
        write_corpus(1),
        {"text": "one", "source_lang": "en", "target_lang": "en", "taskname": "asr", "pnc": "no"},
        {"answer": "Eins.", "source_lang": "en", "target_lang": "de", "task": "ast", "pnc": True},
    )
    first, second = opened(path)
    assert cut_slots(first) == {"source_lang": "en", "target_lang": "en", "task": "asr", "pnc": "no"}
    assert cut_slots(second) == {"source_lang": "en", "target_lang": "de", "task": "ast", "pnc": "yes"}
    assert (cut_text(second), cut_language(second)) == ("Eins.", "de")
    assert cut_slots(second, ("target_lang", "itn")) == {"target_lang": "de"}


def test_the_configuration_fills_in_slots_and_the_manifests_own_win(write_corpus: Write) -> None:
    path = rewrite(write_corpus(1), {"text": "one", "lang": "en"}, {"text": "uno", "target_lang": "es"})
    first, second = opened({"path": str(path), "slots": GERMAN})
    assert cut_slots(first) == {"source_lang": "en", "target_lang": "de", "pnc": "yes"}
    assert cut_language(first) == "de"
    assert cut_slots(second)["target_lang"] == "es"


def test_members_of_a_group_take_its_slots_unless_they_have_their_own(write_corpus: Write) -> None:
    members = [
        {"path": str(write_corpus(1, "a"))},
        {"path": str(write_corpus(1, "b")), "slots": {"target_lang": "fr"}},
    ]
    group = {"type": "group", "inputs": members, "slots": GERMAN}
    assert [cut_slots(cut)["target_lang"] for cut in opened(group)] == ["de", "fr"]


@pytest.mark.parametrize("format", ["lhotse", "shar"])
def test_lhotse_inputs_carry_slots(write_corpus: Write, tmp_path: Path, format: str) -> None:
    path = write_corpus(2)
    table = path.with_name("table.tsv")
    table.write_text("path\tsentence\n0.wav\tone\n1.wav\ttwo\n")
    written = write_parts(prepare("folder", table, tmp_path / "out", Notes()), tmp_path / "out", format)  # type: ignore[arg-type]
    cuts = list(opened({"path": str(written["all"]), "slots": GERMAN}, required=("target_lang", "text")))
    assert [cut_slots(cut)["target_lang"] for cut in cuts] == ["de", "de"]
    with pytest.raises(ManifestError, match=r"out/.*cut .*: the field target_lang is missing"):
        list(opened(str(written["all"]), required=("target_lang",)))


def test_hugging_face_columns_are_slots(write_corpus: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = {"bytes": None, "path": str(write_corpus(1).parent / "0.wav")}
    rows = [
        {"audio": audio, "text": "eins", "target_lang": "de"},
        {"audio": audio, "text": None, "target_lang": "de"},
    ]

    class Rows(list):  # type: ignore[type-arg]
        def cast_column(self, column: str, kind: Any) -> Rows:
            return self

    module = SimpleNamespace(load_dataset=lambda *a, **k: Rows(rows), Audio=lambda decode: None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    source = {"type": "hf_dataset", "path": "some/set", "slots": {"source_lang": "en", "target_lang": "en"}}
    assert cut_slots(next(iter(opened(source)))) == {"source_lang": "en", "target_lang": "de"}
    # A null cannot be corrected by hand as a line can: filters leave it out and count it.
    assert [cut_text(cut) for cut in opened(source, required=("text",))] == ["eins", None]
    with pytest.raises(ManifestError, match=r"some/set, row 0: the field pnc is missing"):
        list(opened(source, required=("pnc",)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a", "source_lang": "en"}, r"manifest.jsonl, line 2: the field target_lang is missing"),
        ({"target_lang": "de"}, r"line 2: the field text is missing.* in the target language \(de\)"),
    ],
)
def test_a_missing_target_is_named_with_file_line_and_field(
    write_corpus: Write, line: dict[str, Any], message: str
) -> None:
    path = rewrite(write_corpus(1), {"text": "a", "target_lang": "de"}, line)
    with pytest.raises(ManifestError, match=message):
        list(opened(path, required=("target_lang", "text")))


def test_a_cut_knows_its_line_and_one_without_speech_needs_no_text(write_corpus: Write) -> None:
    path = rewrite(write_corpus(1), {"text": "a"}, {"nonspeech": True})
    first, second = opened(path, required=("text",))
    assert cut_place(first) == f"{path}, line 1 (0.wav)"
    assert cut_place(second) == f"{path}, line 2 (0.wav)"
    assert cut_text(second) == ""


def test_a_translation_needs_its_target_language_wherever_it_is_read(write_corpus: Write) -> None:
    path = rewrite(write_corpus(1), {"text": "a", "taskname": "ast", "source_lang": "en"})
    with pytest.raises(ManifestError, match="line 1: the field target_lang is missing"):
        list(opened(path))


def test_an_unknown_slot_is_an_error_that_helps() -> None:
    with pytest.raises(ConfigError, match=r"slots\.target_lan is not a known slot; did you mean target_lang"):
        from_dict(DataConfig, {"train": {"path": "a.json", "slots": {"target_lan": "de"}}}, "data")
    with pytest.raises(ConfigError, match=r"slots\.pnc is \['yes'\]; it must be text"):
        InputConfig(path="a.json", slots={"pnc": ["yes"]})


def test_slots_survive_writing_the_configuration() -> None:
    config = InputConfig(path="a.json", slots={"taskname": "ast", "target_lang": "de", "pnc": False})
    assert config.slots == {"target_lang": "de", "task": "ast", "pnc": "no"}
    assert from_dict(InputConfig, to_dict(config)) == config
