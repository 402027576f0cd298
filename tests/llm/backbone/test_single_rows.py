"""A single row on a CPU decodes by steps of its own; they give the scores of whole forward passes."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.llm.backbone.llama_step import LlamaSteps
from tests.llm.backbone.shapes import make
from tests.llm.backbone.test_adapters import with_adapters

FAMILIES = ["llama", "qwen3", "smollm3", "mistral", "qwen2"]
IDS = torch.arange(3, 25)[None]
START = 12


@torch.no_grad()
def stepwise(backbone, start=START, fixed=None, **how):
    """Scores after the first `start` tokens and after each further one, and the cache."""
    lengths = torch.tensor([start])
    backbone.fixed = fixed
    decoder = backbone.bind(backbone.embed(IDS[:, :start]), lengths, **how)
    scores, cache = decoder.prefill(IDS[:, :start], lengths, capacity=IDS.shape[1])
    found = [scores, *(decoder.step(IDS[:, n], cache) for n in range(start, IDS.shape[1]))]
    decoder.release(cache)
    backbone.fixed = None
    return torch.cat(found), cache


@torch.no_grad()
def whole(backbone, **how):
    return backbone.logits(backbone(backbone.embed(IDS), **how), **how)[0, START - 1 :]


@pytest.mark.parametrize("architecture", [*FAMILIES, "nemotron_h"])
def test_steps_of_a_row_give_the_scores_of_the_whole_text(architecture):
    backbone = make(architecture)
    assert float((stepwise(backbone)[0] - whole(backbone)).abs().max()) < 5e-5


def test_biases_everywhere_are_honoured():
    backbone = make("llama", attention_bias=True, mlp_bias=True)
    assert float((stepwise(backbone)[0] - whole(backbone)).abs().max()) < 5e-5


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "smollm3", "nemotron_h"])
@pytest.mark.parametrize("adapter", ["one", "two", False])
def test_steps_of_a_row_honour_the_adapter_of_the_call(architecture, adapter):
    backbone = with_adapters(architecture, "one", "two")
    found = stepwise(backbone, adapter=adapter)[0]
    assert float((found - whole(backbone, adapter=adapter)).abs().max()) < 5e-5
    assert float((found - stepwise(make(architecture))[0]).abs().max()) > 0.1 or adapter is False


def test_only_a_single_row_of_single_precision_takes_them():
    backbone = make("llama")
    lengths = torch.tensor([5, 5])
    decoder = backbone.bind(backbone.embed(IDS[:, :5]).expand(2, -1, -1), lengths)
    assert isinstance(decoder.steps, LlamaSteps)
    _, cache = decoder.prefill(IDS[:, :5], lengths, capacity=9)
    decoder.step(IDS[0, 5:7], cache)
    assert cache.desk is None
    cache.select([1])
    decoder.step(IDS[0, 7:8], cache)
    assert cache.desk is not None
    assert stepwise(backbone, fixed=True)[1].desk is None
    assert stepwise(make("llama").double())[1].desk is None
    assert stepwise(make("llama"))[1].desk is not None


@torch.no_grad()
def test_a_row_left_over_from_a_batch_goes_on():
    backbone = make("qwen3")
    lengths = torch.tensor([START, 7])
    ids = torch.cat([IDS[:, :START], IDS[:, :START].flip(1)])
    for kept in (0, 1):
        decoder = backbone.bind(backbone.embed(ids), lengths)
        _, cache = decoder.prefill(ids, lengths, capacity=30)
        decoder.step(ids[:, 0], cache)
        cache.select([kept])
        found = decoder.step(torch.tensor([9]), cache)
        text = torch.cat([ids[kept, : lengths[kept]], ids[kept, :1], torch.tensor([9])])[None]
        assert float((found - backbone.causal(input_ids=text).logits[:, -1]).abs().max()) < 5e-5


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "nemotron_h"])
def test_a_row_goes_back_to_the_bit(architecture):
    backbone = make(architecture)
    decoder = backbone.bind(backbone.embed(IDS), torch.tensor([IDS.shape[1]]))
    _, cache = decoder.prefill(IDS, torch.tensor([IDS.shape[1]]), capacity=40)
    mark = cache.snapshot()
    once = [decoder.step(torch.tensor([token]), cache).clone() for token in (5, 6, 7)]
    cache.rollback(mark)
    again = [decoder.step(torch.tensor([token]), cache).clone() for token in (5, 6, 7)]
    assert all(torch.equal(a, b) for a, b in zip(once, again))


@torch.no_grad()
def test_steps_touch_neither_the_model_nor_what_they_are_given():
    backbone = make("llama")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    embeddings = backbone.embed(IDS)
    _, cache = backbone.prefill(embeddings, torch.tensor([IDS.shape[1]]), capacity=30)
    given = embeddings[:, 0].clone()
    backbone.step(given, cache)
    assert torch.equal(given, embeddings[:, 0])
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
