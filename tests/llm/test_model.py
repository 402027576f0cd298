"""A language model answers, alone or in a batch, streamed or not, and says what it cannot do."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import aronnax
from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.llm.model import LanguageModel
from aronnax.core.errors import CheckpointError, ConfigError, OptionError
from tests.llm.small import SETTINGS, language_model, tokenizer_files

QUESTIONS = ["Hi", "Transcribe the following: seven three nine", "What is said?"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return language_model()


def test_a_row_is_answered_as_if_alone(model: LanguageModel) -> None:
    together: Any = model.generate(QUESTIONS, max_new_tokens=12)
    alone: list[Any] = [model.generate(question, max_new_tokens=12) for question in QUESTIONS]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    for one, other in zip(together, alone):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def test_the_answer_is_the_likeliest_continuation_of_the_whole_prompt(model: LanguageModel) -> None:
    reply: Any = model.generate(QUESTIONS[0], max_new_tokens=6)
    ids = model.text.render(QUESTIONS[0]).ids
    for token, log_prob in zip(reply.tokens, reply.log_probs):
        scores = model.llm.logits(model.llm(model.llm.embed(torch.tensor([ids]))))[0, -1].log_softmax(-1)
        assert token == int(scores.argmax())
        assert log_prob == pytest.approx(scores[token].item(), abs=1e-4)
        ids.append(token)


def test_a_stream_tells_the_same_as_the_whole(model: LanguageModel) -> None:
    pieces = list(model.generate_stream(QUESTIONS[1], max_new_tokens=12))
    whole: Any = model.generate(QUESTIONS[1], max_new_tokens=12)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(piece.token for piece in pieces[:-1]) == whole.tokens
    assert pieces[-1].reply is not None
    assert pieces[-1].reply.text == whole.text


def test_a_seed_makes_draws_repeatable_in_any_batch(model: LanguageModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0, "top_p": 0.9, "seed": 4}
    alone: Any = model.generate(QUESTIONS[2], **options)
    together: Any = model.generate(QUESTIONS, **options)
    other: Any = model.generate(QUESTIONS[2], **{**options, "seed": 5})
    assert alone.tokens == together[2].tokens != other.tokens


def test_several_answers_come_best_first(model: LanguageModel) -> None:
    replies: Any = model.generate(QUESTIONS[0], max_new_tokens=4, beam=3, n_best=3)
    scores = [sum(reply.log_probs) for reply in replies]
    assert len(replies) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_stop_text_ends_the_answer_and_is_left_out(model: LanguageModel) -> None:
    whole: Any = model.generate(QUESTIONS[0], max_new_tokens=12)
    stop = whole.text[3:5]
    reply: Any = model.generate(QUESTIONS[0], max_new_tokens=12, stop=stop)
    assert reply.text == whole.text[: whole.text.index(stop)].rstrip()
    *_, last = model.generate_stream(QUESTIONS[0], max_new_tokens=12, stop=stop)
    assert last.reply is not None
    assert last.reply.text == reply.text
    assert reply.finished == "stopped"


def test_a_recording_is_refused_for_want_of_ears(model: LanguageModel) -> None:
    assert not model.hears
    with pytest.raises(OptionError, match=r"turn 1 \(user\) holds a recording, and this model has no ears"):
        model.generate([{"role": "user", "content": ["Hear", Audio("a.wav")]}])


def test_a_conversation_that_is_too_long_says_where_and_by_how_much(model: LanguageModel) -> None:
    long = "seven three nine " * 40
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": long},
    ]
    tokens = len(model.text.render(chat).ids)
    with pytest.raises(
        OptionError,
        match=rf"has {tokens} tokens, {tokens - 95} more than .*context of 96.*from turn 3 \(user\) on",
    ):
        model.generate(chat)


def test_the_last_token_of_the_context_may_still_be_said(model: LanguageModel) -> None:
    short = language_model(context=len(model.text.render("Hi").ids) + 1)
    reply: Any = short.generate("Hi", max_new_tokens=9)
    assert (len(reply.tokens), reply.finished) == (1, "limit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"top_k": 5}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"adapter": "french"}, "no adapter 'french'"),
    ],
)
def test_an_option_that_cannot_be_is_named(model: LanguageModel, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        model.generate("Hi", **options)


def test_a_model_in_training_mode_does_not_answer() -> None:
    with pytest.raises(OptionError, match="in training mode"):
        language_model().train().generate("Hi")


def test_many_threads_may_ask_at_once(model: LanguageModel) -> None:
    wanted: list[Any] = [model.generate(question, max_new_tokens=8) for question in QUESTIONS]
    found: dict[int, Any] = {}

    def ask(place: int) -> None:
        found[place] = model.generate(QUESTIONS[place % 3], max_new_tokens=8)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[place].tokens == wanted[place % 3].tokens for place in range(6))


@pytest.mark.parametrize("tied", [True, False])
def test_what_was_saved_answers_the_same(tmp_path: Path, tied: bool) -> None:
    model = language_model(tied=tied)
    model.save_pretrained(tmp_path)
    again: Any = aronnax.load(tmp_path, device="cpu")
    assert again.generate("Hi", max_new_tokens=8).tokens == model.generate("Hi", max_new_tokens=8).tokens  # type: ignore[union-attr]
    assert again.config == model.config


def test_a_folder_of_transformers_loads_by_its_path(tmp_path: Path, model: LanguageModel) -> None:
    model.llm.causal.save_pretrained(tmp_path)
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    loaded: Any = aronnax.load(tmp_path, device="cpu")
    assert isinstance(loaded, LanguageModel)
    ids = torch.tensor([[5, 9, 30]])
    torch.testing.assert_close(loaded.llm(loaded.llm.embed(ids)), model.llm(model.llm.embed(ids)))
    with pytest.raises(OptionError, match="no chat template; name a prompt format"):
        loaded.generate("Hi")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, model: LanguageModel) -> None:
    model.llm.causal.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer.json"):
        aronnax.load(tmp_path, device="cpu")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    model = language_model()
    model.save_pretrained(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    extra = {**tokenizer["added_tokens"][-1], "id": SETTINGS["vocab_size"], "content": "<|one too many|>"}
    tokenizer["added_tokens"].append(extra)
    tokenizer["model"]["vocab"]["<|one too many|>"] = SETTINGS["vocab_size"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(CheckpointError, match="token ids up to 440 and the language model 440 embeddings"):
        aronnax.load(tmp_path, device="cpu")


def test_only_the_language_model_itself_is_borrowed() -> None:
    with pytest.raises(ConfigError, match=r"references.encoder. is not known"):
        language_model(references={"encoder.": "digits"})
