"""SALM: rows, padding, adapters and what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aronnax.collections.llm.chat.messages import Audio, Message, messages_from
from aronnax.collections.speechlm.conversation.batch import ConversationBatch, collate
from aronnax.collections.speechlm.salm.model import SALM
from aronnax.core.errors import CheckpointError
from aronnax.core.loading import load
from tests.speechlm.tiny import CONFIG, noise, salm

ASKED = [
    [Message("user", ("repeat :", Audio(noise(0.5)))), Message("assistant", ("one two three",))],
    [Message("user", (Audio(noise(0.9, 1)), "what is said")), Message("assistant", ("four",))],
    [
        Message("user", (Audio(noise(0.3, 2)), "repeat :", Audio(noise(0.4, 3)))),
        Message("assistant", ("five six",)),
        Message("user", ("repeat : seven",)),
        Message("assistant", ("seven",)),
    ],
    [Message("user", ("repeat : seven",)), Message("assistant", ("seven",))],
]


def batch_of(model: SALM, rows: list[list[Message]]) -> ConversationBatch:
    rendered = [model.text.render(row, answer=True) for row in rows]
    signals = [torch.from_numpy(audio.source[0]) for row in rendered for audio in row.audios]
    texts = [str(row[-1].content[0]) for row in rows]
    return collate(rendered, signals, texts, [str(index) for index in range(len(rows))], model.text.pad_id)


def test_a_prompt_counts_the_positions_that_its_tokens_and_recordings_take() -> None:
    model = salm()
    prompt = model.prompt(messages_from(ASKED[2][:1]))
    assert prompt.positions == model.positions(prompt.ids, [len(signal) for signal in prompt.signals])
    assert prompt.positions > len(prompt.ids)


def test_a_row_has_the_states_it_has_alone() -> None:
    model = salm()
    hidden, labels = model.training_hidden(batch_of(model, ASKED))
    for row, conversation in enumerate(ASKED):
        alone, alone_labels = model.training_hidden(batch_of(model, [conversation]))
        length = alone.shape[1]
        torch.testing.assert_close(hidden[row, :length], alone[0], atol=1e-4, rtol=1e-4)
        assert labels[row, :length].tolist() == alone_labels[0].tolist()
        assert (labels[row, length:] == -100).all()


def test_only_the_turns_of_the_assistant_are_learned() -> None:
    model = salm()
    _, labels = model.training_hidden(batch_of(model, ASKED))
    learned = [[token for token in row if token != -100] for row in labels.tolist()]
    said = [model.text.decode(row, skip_special=False) for row in learned]
    assert [text.split() for text in said] == [
        ["<|assistant|>", "one", "two", "three", "<|end|>"],
        ["<|assistant|>", "four", "<|end|>"],
        ["<|assistant|>", "five", "six", "<|end|>", "<|assistant|>", "seven", "<|end|>"],
        ["<|assistant|>", "seven", "<|end|>"],
    ]


def test_no_gradient_comes_from_recordings_and_questions() -> None:
    model = salm()
    hidden, labels = model.training_hidden(batch_of(model, ASKED))
    logits = model.llm.logits(hidden).detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[labels == -100] == 0).all()
    assert (logits.grad[labels != -100] != 0).any(dim=-1).all()


def test_fresh_low_rank_layers_change_nothing() -> None:
    torch.manual_seed(0)
    model = SALM(CONFIG).eval()
    x = torch.randn(2, 7, 16)
    assert torch.equal(model.llm(x), model.llm(x, adapter=False))


def test_the_language_model_without_low_rank_layers_is_the_one_before() -> None:
    plain, model = salm(lora=None), salm()
    state = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    plain.load_state_dict({name: value for name, value in state.items() if ".lora_" not in name})
    asked = [{"role": "user", "content": "repeat : seven one"}]
    without = model.generate(asked, adapter=False, max_new_tokens=6)
    assert without.tokens == plain.generate(asked, max_new_tokens=6).tokens
    assert torch.equal(model.llm(torch.ones(1, 3, 16), adapter=False), plain.llm(torch.ones(1, 3, 16)))


def test_a_saved_model_answers_as_before(tmp_path: Path) -> None:
    model = salm()
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    assert isinstance(again, SALM)
    asked: list[Any] = [{"role": "user", "content": ["repeat :", Audio(noise(0.5))]}]
    reply = model.generate(asked, max_new_tokens=8)
    assert again.generate(asked, max_new_tokens=8).tokens == reply.tokens
    assert reply.tokens


@pytest.mark.parametrize("seconds", [0.2, 0.25, 0.31])
def test_long_recordings_are_heard_in_pieces(seconds: float) -> None:
    whole, pieces = salm(), salm(encoder_chunk_seconds=0.1)
    signal = torch.from_numpy(noise(seconds)[0])
    (heard,) = pieces.hear(signal[None], torch.tensor([len(signal)]))
    size = 800
    starts = list(range(0, len(signal), size))
    if len(signal) - starts[-1] < 160:
        starts.pop()
    ends = [*starts[1:], len(signal)]
    by_hand = [
        whole.hear(signal[None, start:end], torch.tensor([end - start]))[0]
        for start, end in zip(starts, ends)
    ]
    torch.testing.assert_close(heard, torch.cat(by_hand), atol=1e-5, rtol=1e-4)
    assert pieces.positions([5, -1, 6], [len(signal)]) == 2 + len(heard)


def test_a_tokenizer_with_more_words_than_the_language_model_is_refused() -> None:
    settings = {**CONFIG.backbone.settings, "vocab_size": CONFIG.backbone.settings["vocab_size"] - 3}
    smaller = replace(CONFIG, backbone=replace(CONFIG.backbone, settings=settings))
    with pytest.raises(CheckpointError, match="tokenizer"):
        SALM.build(smaller, salm().assets())
