"""Products of a few rows, by weights that oneDNN reads as they lie, are those of any other way."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from aronnax.collections.llm.backbone import few_rows
from tests.llm.backbone.shapes import make
from tests.llm.backbone.test_adapters import with_adapters
from tests.llm.backbone.test_decoding import some_tokens, stepwise, whole

pytestmark = pytest.mark.skipif(not few_rows.ONEDNN, reason="oneDNN is not preferred on this processor")


@pytest.fixture
def everywhere(monkeypatch):
    """Toy models take these products too; yields how often each was asked for."""
    monkeypatch.setattr(few_rows, "LEAST", 1)
    monkeypatch.setattr(few_rows, "ROWS", range(2, 1000))
    counts = {"product": 0, "joined": 0}
    originals = {name: getattr(few_rows, name) for name in counts}
    for name in counts:

        def counted(*given, name=name, function=originals[name]):
            counts[name] += 1
            return function(*given)

        monkeypatch.setattr(few_rows, name, counted)
    return counts


@torch.inference_mode()
@pytest.mark.parametrize("by_columns", [False, True])
def test_products_are_those_of_a_linear_layer(by_columns):
    x, weight, other = torch.randn(8, 48), torch.randn(80, 48), torch.randn(8, 80)
    if by_columns:
        x, other = (one.t().contiguous().t() for one in (x, other))
    plain = F.linear(x, weight)
    for found, want in (
        (few_rows.product(x, weight), plain),
        (few_rows.product(x, weight, "swish"), F.silu(plain)),
        (few_rows.joined(x, weight, "add", other), plain + other),
        (few_rows.joined(x, weight, "mul", other), plain * other),
    ):
        assert torch.allclose(found, want, atol=1e-4)
        assert found.stride() == (1, 8)


def test_only_a_few_rows_of_large_weights_in_single_precision_take_them():
    weight = torch.empty(1024, 1024)
    assert few_rows.suits(torch.empty(16, 1024), weight)
    assert not few_rows.suits(torch.empty(2, 1024), weight)
    assert not few_rows.suits(torch.empty(300, 1024), weight)
    assert not few_rows.suits(torch.empty(16, 64), torch.empty(64, 64))
    assert not few_rows.suits(torch.empty(16, 1024).bfloat16(), weight.bfloat16())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "nemotron_h"])
def test_backbones_give_the_same_scores_by_them(everywhere, architecture):
    backbone, more = make(architecture), some_tokens()
    assert float((stepwise(backbone, more) - whole(backbone, more)).abs().max()) < 5e-5
    assert everywhere["product"]
    assert everywhere["joined"] or architecture == "nemotron_h"


def test_biases_and_adapters_are_honoured(everywhere):
    more = some_tokens()
    biased = make("llama", attention_bias=True, mlp_bias=True)
    assert float((stepwise(biased, more) - whole(biased, more)).abs().max()) < 5e-5
    adapted = with_adapters("llama", "one")
    assert float((stepwise(adapted, more) - whole(adapted, more)).abs().max()) < 5e-5
    assert everywhere["product"]
