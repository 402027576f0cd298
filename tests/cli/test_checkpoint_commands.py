"""`aronnax info` and `aronnax convert` on real archives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import aronnax
from aronnax.cli.main import main

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "fixtures" / "nemo"


def run(*arguments: object, status: int = 0) -> None:
    """The command as the shell runs it; its exit status must be `status`."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert (stop.value.code or 0) == status


def test_info_describes_an_archive(capsys: pytest.CaptureFixture[str]) -> None:
    run("info", FIXTURES / "hybrid_bpe.nemo", "--json", "--config", "--tensors")
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "hybrid"
    assert found["heads"] == "tdt, ctc"
    assert found["parameters"] == "19,259"
    assert found["tokenizer"] == "SentencePiece, 60 pieces"
    assert found["loads"] == "yes"
    assert yaml.safe_load(found["config"])["durations"] == [0, 1, 2, 3, 4]
    assert found["tensors"]["ctc_decoder.decoder_layers.0.bias"] == ["float32", [61]]


def test_info_describes_what_it_cannot_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"target": "nemo.collections.asr.models.EncDecSpeakerLabelModel", "nemo_version": "2.3.0"}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "model_weights.ckpt").touch()
    run("info", tmp_path, status=1)
    text = capsys.readouterr().out
    assert "EncDecSpeakerLabelModel" in text
    assert "NeMo 2.3.0" in text
    assert "no: " in text
    assert "a speaker or language recogniser" in text


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_info_about_a_recording_is_an_error(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(2000))
    run("info", tmp_path / "a.wav", *options, status=1)
    assert "a.wav is not a model" in capsys.readouterr().out


def test_convert_goes_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", FIXTURES / "tdt_bpe.nemo", tmp_path / "folder")
    run("convert", tmp_path / "folder", tmp_path / "again.nemo")
    assert f"wrote {tmp_path / 'again.nemo'}: 0.1 MB" in capsys.readouterr().out
    first, last = (
        aronnax.load(path, device="cpu") for path in (FIXTURES / "tdt_bpe.nemo", tmp_path / "again.nemo")
    )
    assert first.config == last.config
    assert all(a.equal(b) for a, b in zip(first.state_dict().values(), last.state_dict().values()))


def test_half_precision_halves_the_folder(tmp_path: Path) -> None:
    run("convert", FIXTURES / "tdt_bpe.nemo", tmp_path / "full")
    run("convert", FIXTURES / "tdt_bpe.nemo", tmp_path / "half", "--dtype", "float16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.75 * sizes[0]


def test_convert_does_not_overwrite_without_being_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(FIXTURES / "ctc_bpe.nemo", tmp_path / "a.nemo")
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(FIXTURES / "ctc_char.nemo"), str(tmp_path / "a.nemo")])
    assert stop.value.code == 2
    assert "is there already; pass --force" in capsys.readouterr().err
    run("convert", FIXTURES / "ctc_char.nemo", tmp_path / "a.nemo", "--force")
    assert aronnax.load(tmp_path / "a.nemo", device="cpu").tokenizer.vocab_size == 28


def test_a_broken_checkpoint_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.nemo").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(tmp_path / "a.nemo"), str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
