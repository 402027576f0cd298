from __future__ import annotations

import json

import pytest

from aronnax.cli.main import main
from aronnax.collections.asr.evaluation import evaluate
from aronnax.collections.common.metrics import ErrorCounts, score
from aronnax.core.errors import ManifestError, OptionError


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A model with enough noise in its weights to say something, and its folder."""
    import torch

    model = tiny_model("hybrid")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("ctc_decoder", "joint")):
                parameter.add_(torch.randn_like(parameter))
    folder = tmp_path / "model"
    model.eval().save_pretrained(folder)
    return model, folder


def test_the_score_is_that_of_what_transcribe_says(saved, tone_manifest, tone_texts) -> None:
    model, _ = saved
    manifest = tone_manifest()
    said = [transcript.text for transcript in model.transcribe(str(manifest), head="ctc")]
    assert any(said)
    result = evaluate(model, manifest, head="ctc", batch_size=3)
    assert [row.hypothesis for row in result.score.rows] == said
    assert result.score.words == score(tone_texts, said).words
    assert result.audio_seconds == pytest.approx(sum(0.1 + 0.4 * len(text.split()) for text in tone_texts))


def test_the_command_prints_rates_and_writes_rows(saved, tone_manifest, tone_texts, tmp_path, capsys) -> None:
    _, folder = saved
    out = tmp_path / "scores"
    arguments = ["evaluate", str(folder), str(tone_manifest()), "--head", "ctc", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--device", "cpu"])
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    assert said.startswith("WER ")
    assert "insertions" in said
    assert "RTFx" in said
    rows = [json.loads(line) for line in (out / "utterances.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list(tone_texts)
    total = sum(
        (ErrorCounts(**{k: v for k, v in row["wer"].items() if k != "rate"}) for row in rows), ErrorCounts()
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["wer"]["rate"] == total.rate


def test_an_unreadable_recording_is_named_and_the_others_are_scored(saved, tone_manifest, capsys) -> None:
    _, folder = saved
    manifest = tone_manifest()
    with manifest.open("a") as lines:
        lines.write(json.dumps({"audio_filepath": "missing.wav", "duration": 1.0, "text": "a"}) + "\n")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), str(manifest), "--device", "cpu"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "8 utterances" in printed.out
    assert "missing.wav" in printed.err


def test_an_unknown_head_or_a_manifest_without_texts_is_refused(saved, tone_manifest, tmp_path) -> None:
    model, _ = saved
    with pytest.raises(OptionError, match="rnnt"):
        evaluate(model, tone_manifest(), head="rnnt")
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"audio_filepath": "train0.wav"}) + "\n")
    with pytest.raises(ManifestError, match="no entry has a text"):
        evaluate(model, bare)
