"""BESTOW over other language models, with adapters, and in buffers of fixed sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.lora.config import LoRA
from aronnax.collections.speechlm.bestow.layered import LayeredConfig
from aronnax.collections.speechlm.bestow.reader import ReaderConfig
from aronnax.collections.speechlm.bestow.waitk import WaitK
from tests.llm.backbone.shapes import SHAPES

from .conftest import batch_of, bestow, question, scores, signal, spoken

HEARD = signal(2.0)


def over(architecture, **changes):
    settings = SHAPES[architecture] | {"vocab_size": 24}
    return bestow(backbone=BackboneConfig(architecture, settings), **changes)


@pytest.mark.parametrize("architecture", ["qwen3", "smollm3", "nemotron_h"])
def test_cached_decoding_is_the_whole_pass(architecture):
    model = over(architecture)
    messages, known = spoken("say", ..., seconds=0.9), []
    ids = model.text.render(messages).ids
    together = model.generate([messages, question("how many then")], max_new_tokens=6)
    for token, log_prob in zip(together[0].tokens, together[0].log_probs):
        whole = scores(model, [*ids, *known], [signal(0.9)])[0].log_softmax(-1)
        assert abs(float(whole[token]) - log_prob) < 1e-4
        known.append(token)


@pytest.mark.parametrize("fixed", [None, True])
@pytest.mark.parametrize("architecture", ["llama", "smollm3", "nemotron_h"])
def test_a_refused_end_leaves_no_trace(architecture, fixed, monkeypatch):
    model = over(architecture)
    model.llm.fixed = fixed
    stream = model.stream(WaitK(1, 4), max_new_tokens=8)
    assert len(stream.push(HEARD[:640])) == 2
    monkeypatch.setattr(model.text, "end_ids", tuple(range(24)))
    assert stream.push(HEARD[640:960]) == []
    monkeypatch.setattr(model.text, "end_ids", ())
    # Caches made anew know nothing of what was asked and refused.
    fresh = model.stream(WaitK(1, 4), max_new_tokens=8, state=stream.state)
    for one in (stream, fresh):
        one.push(HEARD[960:1600])
    assert len(stream.state.tokens) == 4
    assert stream.state.tokens == fresh.state.tokens
    torch.testing.assert_close(
        torch.tensor(stream.state.log_probs), torch.tensor(fresh.state.log_probs), atol=1e-5, rtol=0
    )


def test_buffers_of_fixed_sizes_change_nothing():
    model = bestow()
    conversations = [spoken("say", ...), question("how many"), spoken("then", ..., seconds=0.5, seed=3)]
    free = model.generate(conversations, max_new_tokens=8)
    beams = model.generate(conversations, max_new_tokens=8, beam=3)
    live = model.stream(WaitK(2, 4), max_new_tokens=8).listen(HEARD)
    model.llm.fixed = True
    assert [one.tokens for one in model.generate(conversations, max_new_tokens=8)] == [
        one.tokens for one in free
    ]
    assert [one.tokens for one in model.generate(conversations, max_new_tokens=8, beam=3)] == [
        one.tokens for one in beams
    ]
    assert model.stream(WaitK(2, 4), max_new_tokens=8).listen(HEARD).tokens == live.tokens


def test_adapters_are_left_out_for_a_call():
    plain = bestow()
    model = bestow(lora=LoRA(rank=2, target_modules=("q_proj", "v_proj")))
    state = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    plain.load_state_dict({name: value for name, value in state.items() if ".lora_" not in name})
    messages = spoken("say", ...)
    wanted = plain.generate(messages, max_new_tokens=8)
    changed = model.generate(messages, max_new_tokens=8)
    bare = model.generate(messages, max_new_tokens=8, adapter=False)
    assert bare.tokens == wanted.tokens
    assert changed.log_probs != wanted.log_probs
    policy = WaitK(1, 4)
    live = model.stream(policy, max_new_tokens=8, adapter=False).listen(HEARD)
    assert live.tokens == plain.stream(policy, max_new_tokens=8).listen(HEARD).tokens


@pytest.mark.parametrize("layered", [None, LayeredConfig(2, 0.0, 0.0, zero_start=False)])
def test_computing_layers_twice_gives_the_same_gradients(layered):
    model = bestow(layered=layered, reader=ReaderConfig(2, None, None, 2, 0.0, 0.0, 0.0))
    batch = batch_of(model, (spoken("say", ...), "one two"), (question("how many"), "three"))
    found = []
    for twice in (False, True):
        model.llm.gradient_checkpointing = twice
        model.llm.train()
        model.zero_grad()
        hidden, labels = model.training_hidden(batch)
        hidden[labels >= 0].square().sum().backward()
        found.append([one.grad.clone() for one in model.reader.parameters()])
    for once, again in zip(*found):
        torch.testing.assert_close(once, again)


def test_a_reader_of_another_type_than_the_language_model_works():
    model = bestow()
    model.llm.to(torch.bfloat16)
    reply = model.generate([spoken("say", ...), question("how many")], max_new_tokens=4)[0]
    assert len(reply.tokens) <= 4
    assert len(model.stream(WaitK(1, 4), max_new_tokens=4).listen(HEARD).tokens) <= 4


def test_the_width_of_the_reader_is_free():
    model = bestow(reader=replace(bestow().config.reader, width=8, inner_size=12))
    offline = model.stream(None, max_new_tokens=6).listen(HEARD)
    heard = [{"role": "user", "content": ["say", _recording()]}]
    assert offline.tokens == model.generate(heard, max_new_tokens=6).tokens


def _recording():
    from aronnax.collections.llm.chat.messages import Audio

    return Audio((HEARD.numpy(), 1000))


@pytest.mark.parametrize("layered", [None, LayeredConfig(2, 0.0, 0.0, zero_start=False)])
def test_rows_are_moved_and_dropped_with_what_they_heard(layered):
    model = bestow(layered=layered)
    rows = [spoken("say", ...), question("how many then"), spoken("then", ..., seconds=0.5, seed=3)]
    ids = [model.text.render(row).ids for row in rows]
    heard = [[signal(1.0)], [], [signal(0.5, 3)]]
    decoder, lengths = model.decoder_for(ids, heard)
    _, cache = decoder.prefill(lengths.new_zeros(3, int(lengths.max())), lengths, capacity=20)
    cache.repeat(2)
    decoder.step(torch.tensor([5, 6, 7, 8, 9, 10]), cache)
    cache.reorder([1, 0, 2, 2, 5, 5])
    cache.select([2, 0])
    found = decoder.step(torch.tensor([11, 12, 13, 14]), cache)
    said = [(2, [10, 11]), (2, [10, 12]), (0, [6, 13]), (0, [5, 14])]
    wanted = torch.cat([scores(model, [*ids[row], *tokens], heard[row]) for row, tokens in said])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
