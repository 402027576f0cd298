"""Prompts: slots, their spellings and defaults, and what is refused. NeMo's ids: tests/parity."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from aronnax.collections.common.text.prompts import (
    CanaryTokenizer,
    build_special_tokenizer,
    first_generation,
    prompt_format,
    second_generation,
)
from aronnax.core.errors import CheckpointError, OptionError
from tests.asr.canary.small_canary import small_tokenizer

ENGLISH = {"source_lang": "en", "target_lang": "en"}


def spelled(tokenizer: CanaryTokenizer, ids: list[int]) -> str:
    return "".join(tokenizer.pieces(ids))


def test_the_published_special_blocks_have_their_places() -> None:
    second = build_special_tokenizer(second_generation())
    assert second.vocab_size == 1152
    places = {0: "<unk>", 1: "<|nospeech|>", 2: "<pad>", 3: "<|endoftext|>", 4: "<|startoftranscript|>"}
    places |= {7: "<|startofcontext|>", 16: "<|emo:undefined|>", 21: "<|unklang|>", 62: "<|en|>"}
    places |= {69: "<|fr|>", 76: "<|de|>", 169: "<|es|>", 205: "<|0|>", 1104: "<|899|>"}
    places |= {1105: "<|spk0|>", 1120: "<|spk15|>", 1121: "<|spltoken0|>", 1151: "\u2581"}
    assert {place: second.vocabulary[place] for place in places} == places
    first = build_special_tokenizer(first_generation())
    assert first.vocab_size == 30
    assert first.vocabulary[7:14] == (
        *("<|transcribe|>", "<|translate|>", "<|en|>", "<|es|>", "<|de|>", "<|fr|>"),
        "<|spltoken0|>",
    )


@pytest.mark.parametrize("aggregate", [True, False])
def test_a_prompt_says_its_slots_in_order(aggregate: bool) -> None:
    tokenizer = small_tokenizer(aggregate=aggregate)
    found = prompt_format("canary2").encode(
        tokenizer, {"source_lang": "de", "target_lang": "en", "itn": True}
    )
    said = spelled(tokenizer, found.prompt).lstrip("\u2581")
    assert said == (
        "<|startofcontext|><|startoftranscript|><|emo:undefined|><|de|><|en|><|pnc|><|itn|><|notimestamp|>"
        "<|nodiarize|>"
    )
    assert found.answer == []


def test_the_first_prompt_has_its_task_from_the_languages() -> None:
    tokenizer = small_tokenizer("canary")
    prompt = prompt_format("canary")
    said = spelled(tokenizer, prompt.encode(tokenizer, {**ENGLISH, "pnc": False}).prompt)
    assert said == "<|startoftranscript|><|en|><|transcribe|><|en|><|nopnc|>"
    said = spelled(tokenizer, prompt.encode(tokenizer, {**ENGLISH, "target_lang": "de"}).prompt)
    assert said == "<|startoftranscript|><|en|><|translate|><|de|><|pnc|>"
    said = spelled(tokenizer, prompt.encode(tokenizer, {**ENGLISH, "taskname": "ast"}).prompt)
    assert said == "<|startoftranscript|><|en|><|translate|><|en|><|pnc|>"


@pytest.mark.parametrize("aggregate", [True, False])
def test_an_answer_ends_with_the_end_and_is_read_back(aggregate: bool) -> None:
    tokenizer = small_tokenizer(aggregate=aggregate)
    text = "pack my box"
    found = prompt_format("canary2").encode(tokenizer, ENGLISH, text)
    assert found.answer[-1] == tokenizer.end_id
    assert tokenizer.decode(found.answer) == text
    empty = prompt_format("canary2").encode(tokenizer, ENGLISH, "")
    assert tokenizer.decode(empty.answer) == ""
    assert empty.answer[-1] == tokenizer.end_id


def test_time_marks_stay_whole_and_are_left_out_of_the_text() -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("<|0|> pack <|3|> <|4|> my <|7|>", "en")
    marks = [tokenizer.frame_ids[token] for token in ids if token in tokenizer.frame_ids]
    assert marks == [0, 3, 4, 7]
    assert tokenizer.decode(ids) == "pack my"
    assert tokenizer.decode(ids, specials=True).startswith("<|0|> pack")


def test_context_is_written_in_the_language_of_the_answer() -> None:
    tokenizer = small_tokenizer()
    prompt = prompt_format("canary2")
    slots = {"source_lang": "en", "target_lang": "de", "context": "zwei"}
    ids = prompt.encode(tokenizer, slots).prompt
    inside = ids[1 : ids.index(tokenizer.start_id)]
    assert inside == tokenizer.encode("zwei", "de")
    assert prompt.encode_partial(tokenizer, "zwei", "de") == ids[: len(inside) + 2]


def test_a_forced_beginning_counts_as_prompt() -> None:
    tokenizer = small_tokenizer()
    prompt = prompt_format("canary2")
    plain = prompt.encode(tokenizer, ENGLISH, "box")
    forced = prompt.encode(tokenizer, ENGLISH, "box", prefix="pack my")
    assert forced.prompt == plain.prompt + tokenizer.encode("pack my", "en")
    assert forced.answer == plain.answer


def test_defaults_stand_behind_what_is_given() -> None:
    prompt = prompt_format("canary2")
    values = prompt.resolve({**ENGLISH, "itn": None}, {"pnc": "no", "itn": "yes", "source_lang": "de"})
    assert (values["pnc"], values["itn"], values["source_lang"]) == ("<|nopnc|>", "<|itn|>", "<|en|>")


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({**ENGLISH, "punctuation": True}, "'punctuation' is not a slot.*decodercontext, emotion"),
        ({**ENGLISH, "pnc": "maybe"}, "pnc='maybe' is not known: use True or False"),
        ({**ENGLISH, "pnc": 2}, "pnc=2 is not known"),
        ({**ENGLISH, "emotion": "bored"}, "emotion='bored' is not known: use one of undefined.*sad"),
        ({**ENGLISH, "target_lang": "fr"}, "target_lang='fr' is not a language.*knows en, de"),
        ({"source_lang": "en"}, "needs target_lang"),
        ({}, r"needs source_lang .* and target_lang"),
        ({**ENGLISH, "source_lang": 3}, "source_lang=3 must be"),
        ({**ENGLISH, "decodercontext": 3}, "decodercontext=3 must be text"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(slots: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        prompt_format("canary2").encode(small_tokenizer(), slots)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(OptionError, match=r"canary3.*did you mean canary"):
        prompt_format("canary3")


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    from aronnax.collections.common.text import CharacterTokenizer

    with pytest.raises(CheckpointError, match=r"lacks <pad>"):
        CanaryTokenizer(CharacterTokenizer(["a", "b"]))


def test_formats_travel_to_other_processes() -> None:
    for name in ("canary", "canary2"):
        assert pickle.loads(pickle.dumps(prompt_format(name))) == prompt_format(name)
