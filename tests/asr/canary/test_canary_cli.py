"""`aronnax translate`, the prompt options of `aronnax transcribe`, and what `aronnax info` says of a Canary."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

from aronnax.cli.main import main
from tests.asr.canary.small_canary import noises, small_canary

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_canary().save_pretrained(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    ((samples, rate),) = noises([2.0])
    soundfile.write(tmp_path / "talk.wav", samples, rate, subtype="FLOAT")
    return tmp_path / "talk.wav"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield command
    package = logging.getLogger("aronnax")
    package.handlers.clear()
    package.setLevel(logging.NOTSET)


def test_translate_writes_the_other_language(run: Run, checkpoint: Path, talk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, _ = run(
        *("translate", talk, "--from", "de", "--to", "en", "-m", checkpoint, "--no-pnc"),
        *("--format", "json", "--out", out),
    )
    assert status == 0
    found = json.loads((out / "talk.json").read_text())
    by_hand = small_canary().transcribe(talk, source_lang="de", target_lang="en", pnc=False)
    assert (found["text"], found["language"]) == (by_hand.text, "en")  # type: ignore[union-attr]


def test_transcribe_takes_prompt_options(run: Run, checkpoint: Path, talk: Path) -> None:
    status, out, _ = run(
        *("transcribe", talk, "-m", checkpoint, "--source-lang", "de", "--no-pnc", "--beam", "2"),
        *("--format", "json"),
    )
    assert status == 0
    by_hand = small_canary().transcribe(talk, source_lang="de", pnc=False, beam=2)
    found = json.loads(out)
    assert (found["text"], found["language"]) == (by_hand.text, "de")  # type: ignore[union-attr]


def test_translate_needs_to_know_into_what(run: Run, checkpoint: Path, talk: Path) -> None:
    status, _, err = run("translate", talk, "--from", "de", "-m", checkpoint)
    assert status == 1
    assert "a translation needs target_lang: one of en, de" in err


def test_an_unknown_language_is_an_error_that_lists_the_known(run: Run, checkpoint: Path, talk: Path) -> None:
    status, _, err = run("translate", talk, "--from", "de", "--to", "fr", "-m", checkpoint)
    assert status == 2
    assert "--to fr is not a language of this model, which knows en, de" in err


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({"target_lang": "xx"}, "target_lang='xx' is not a language of this model"),
        ({"pnc": "perhaps"}, "pnc='perhaps' is not known"),
    ],
)
def test_a_line_with_wrong_slots_is_named_once_and_the_others_are_done(
    run: Run, checkpoint: Path, talk: Path, slots: dict[str, str], said: str
) -> None:
    lines = [{"text": "a"}, {"text": "a", **slots}]
    manifest = talk.with_name("m.jsonl")
    manifest.write_text("".join(json.dumps({"audio_filepath": talk.name, **line}) + "\n" for line in lines))
    for verb in (("transcribe", manifest, "-m", checkpoint), ("evaluate", checkpoint, manifest)):
        status, out, err = run(*verb)
        assert (status, bool(out.strip())) == (1, True)
        (line,) = [line for line in err.splitlines() if said in line]
        assert f"{manifest}, line 2 (talk.wav): {said}" in line
        assert line.count("talk.wav") == 1


def test_a_model_without_a_prompt_refuses_the_options(run: Run, talk: Path) -> None:
    status, _, err = run("transcribe", talk, "-m", "digits", "--source-lang", "en", "--no-pnc")
    assert status == 2
    assert "takes no prompt, so --source-lang, --pnc cannot be given" in err
    status, _, err = run("translate", talk, "-m", "digits", "--to", "de")
    assert status == 2
    assert "does not translate; encoder-decoders do" in err


def test_info_names_languages_tasks_and_slots(run: Run, checkpoint: Path) -> None:
    status, out, _ = run("info", checkpoint)
    assert status == 0
    facts = {line[:12].strip(): line[12:].strip() for line in out.splitlines()}
    assert facts["languages"] == "en, de"
    assert facts["tasks"] == "transcribe, translate"
    assert facts["prompt"].startswith("canary2: decodercontext, emotion, source_lang")
    assert facts["loads"] == "yes"
