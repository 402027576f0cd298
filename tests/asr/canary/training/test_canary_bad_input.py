from __future__ import annotations

import logging
from typing import Any

import pytest

from aronnax.collections.asr.training import TrainConfig, train
from aronnax.core.config import from_dict
from aronnax.core.errors import AronnaxError, ConfigError, ManifestError, OptionError


def run(config: dict[str, Any]) -> Any:
    return train(from_dict(TrainConfig, config), say=lambda line: None)


def test_a_line_without_a_target_language_is_named(canary_config, prompted_manifest) -> None:
    bad = prompted_manifest({"source_lang": "en", "text": "a", "taskname": "ast"}, name="bad")
    with pytest.raises(ManifestError, match=r"bad\.jsonl, line 13: the field target_lang is missing"):
        run(canary_config(manifest=bad))


def test_a_line_without_any_language_is_named_when_the_tokenizer_needs_none(
    canary_config, prompted_manifest, tmp_path
) -> None:
    first = run(canary_config(steps=3))
    bad = prompted_manifest({"text": "a"}, name="bad")
    config = canary_config(
        manifest=bad, output=str(tmp_path / "more"), init_from=str(first.folder), tokenizer={"kind": None}
    )
    config["model"] = {}
    with pytest.raises(
        ManifestError, match=r"bad\.jsonl, line 13 \(bad0\.wav\): .* needs source_lang"
    ) as raised:
        run(config)
    said = str(raised.value)
    assert said.count("target_lang") == 1
    assert "`slots` of its input" in said


def test_a_line_without_the_field_text_stops_the_run(canary_config, prompted_manifest) -> None:
    bad = prompted_manifest({"source_lang": "en", "target_lang": "en"}, name="bad")
    with pytest.raises(ManifestError, match=r"bad\.jsonl, line 13: the field text is missing"):
        run(canary_config(manifest=bad))


@pytest.mark.parametrize("kind", ["canary", "bpe"])
def test_data_without_any_text_are_told_before_anything_is_made(
    canary_config, prompted_manifest, tmp_path, kind
) -> None:
    empty = {"source_lang": "en", "target_lang": "en", "text": ""}
    bare = prompted_manifest(empty, empty, name="bare", texts=("a",))
    bare.write_text("".join(bare.read_text().splitlines(keepends=True)[2:]))
    with pytest.raises(ManifestError, match=r"^no line of .*bare\.jsonl has a text"):
        run(canary_config(manifest=bare, tokenizer={"kind": kind}))
    assert not (tmp_path / "run" / "tokenizer").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"target_lang": "tlh", "source_lang": "en", "text": "a"}, "'tlh' is not a language of this model"),
        (
            {"target_lang": "en", "source_lang": "en", "pnc": "perhaps", "text": "a"},
            "pnc='perhaps' is not known",
        ),
    ],
)
def test_an_unknown_value_of_a_slot_is_named_with_what_is_known(
    canary_config, prompted_manifest, line, message
) -> None:
    bad = prompted_manifest(line, name="bad")
    config = canary_config(manifest=bad)
    config["data"]["validation"] = ()
    if line["target_lang"] == "tlh":
        config["tokenizer"]["languages"] = ["en", "de"]
        with pytest.raises(
            ConfigError, match=r"tokenizer\.languages has en, de, and the training data also tlh"
        ):
            run(config)
        return
    with pytest.raises(ManifestError, match=rf"bad\.jsonl, line 13 \(bad0\.wav\): {message}"):
        run(config)


def test_an_unknown_slot_of_an_input_or_of_the_defaults_is_refused(canary_config, prompted_manifest) -> None:
    manifest = str(prompted_manifest())
    with pytest.raises(ConfigError, match=r"slots\.target_lng is not a known slot; did you mean target_lang"):
        from_dict(
            TrainConfig, canary_config(data={"train": {"path": manifest, "slots": {"target_lng": "de"}}})
        )
    config = canary_config()
    config["model"]["prompt_defaults"] = {"emotio": "sad"}
    with pytest.raises(OptionError, match="'emotio' is not a slot"):
        run(config)


def test_empty_translations_and_texts_beyond_the_decoder_are_left_out_and_reported(
    canary_config, prompted_manifest, caplog
) -> None:
    bad = prompted_manifest(
        {"source_lang": "en", "target_lang": "de", "text": ""},
        {"source_lang": "en", "target_lang": "de", "nonspeech": True},
        {"source_lang": "en", "target_lang": "en", "text": "a b c d " * 20},
        name="bad",
    )
    with caplog.at_level(logging.INFO, logger="aronnax"):
        result = run(canary_config(steps=5, manifest=bad))
    said = caplog.text
    assert "1 with an empty translation" in said
    assert "1 with more tokens than the decoder's maximum of 65" in said
    assert "13 of 15 recordings are used" in said
    assert result.after["val/characters_per_minute"] >= 0.0


def test_a_task_option_out_of_range_is_refused(canary_config) -> None:
    with pytest.raises(ConfigError, match=r"task\.label_smoothing is 1\.5"):
        run(canary_config(task={"label_smoothing": 1.5}))
    with pytest.raises(ConfigError, match=r"task\.normaliser is 'wisper'; did you mean whisper"):
        run(canary_config(task={"normaliser": "wisper"}))


def test_parts_that_do_not_fit_are_named(canary_config) -> None:
    with pytest.raises(ConfigError, match=r"init_from\.encoder: encoder\.\S+ is \[.*\] here, and digits has"):
        run(canary_config(init_from={"encoder": "digits"}))
    with pytest.raises(AronnaxError, match="did you mean 'encoder'"):
        run(canary_config(init_from={"encodr": "digits"}))
