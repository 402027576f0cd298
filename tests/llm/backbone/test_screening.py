"""A head in eight bits names the few tokens that can be the best; the one found is the one all floats give."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.common.nn.generation import GenerationOptions, generate, generate_stream
from aronnax.collections.llm.backbone import screening
from aronnax.collections.llm.backbone.llama_row import RowSteps
from aronnax.collections.llm.backbone.screening import Screen
from tests.llm.backbone.shapes import make
from tests.llm.backbone.test_adapters import with_adapters

pytestmark = pytest.mark.skipif(
    not screening.suits(torch.empty(2**12, 2**12)), reason="this processor has no AMX"
)
PROMPT, LENGTHS = torch.arange(3, 15)[None], torch.tensor([12])


@pytest.fixture
def everywhere(monkeypatch):
    """Toy heads are screened too; yields the size of the vocabulary for each step that was."""
    monkeypatch.setattr(screening, "LEAST", 1)
    counted, original = [], Screen.best

    def best(self, row):
        counted.append(len(self.weight))
        return original(self, row)

    monkeypatch.setattr(Screen, "best", best)
    return counted


def heads():
    draw = torch.Generator().manual_seed(0)
    plain = torch.randn(3000, 64, generator=draw)
    yield "plain", plain
    yield "rows of all sizes", plain * torch.logspace(-6, 6, 3000)[:, None]
    yield "a few large columns", plain * torch.where(torch.arange(64) < 3, 200.0, 1.0)
    yield "tokens alike", plain[:1] + 0.1 * plain
    yield "tokens hard to tell apart", plain[:1] + 1e-5 * plain
    yield "one large column", plain * torch.where(torch.arange(64) == 0, 30.0, 1.0)
    yield "small numbers", 1e-24 * plain
    yield "zeros among them", plain * (torch.arange(3000) % 3 > 0)[:, None]


@pytest.mark.parametrize(("name", "weight"), list(heads()))
def test_the_best_token_is_found(name, weight):
    draw = torch.Generator().manual_seed(1)
    screen = Screen(weight)
    for number in range(90):
        row = torch.randn(64, generator=draw)
        if number % 3 == 0:
            row[:2] *= 100.0
        if name == "one large column":
            row[0] = 0.0
        if number % 3 == 1:
            row += 5 * weight[number] / weight[number].norm().clamp(min=1e-9)
        found = int(screen.best(row))
        scores = weight.double() @ row.double()
        # Of two that floats cannot tell apart either may be taken.
        slack = 1e-6 * float(weight.double().norm(dim=1).max() * row.double().norm())
        assert scores[found] >= scores.max() - slack, (name, number)


def test_no_score_lies_farther_off_than_is_said():
    for _, weight in heads():
        screen, row = Screen(weight), torch.randn(64, generator=torch.Generator().manual_seed(2))
        if screen.longest < 1 / screening._SANE:
            continue
        row *= screening._LARGEST / float(row.abs().max())
        exact = (weight.double() - weight.double().mean(0)) @ row.double()
        off = (screen._about(row).double() - exact).abs()
        size = float(row.norm())
        common = screen.apart * 64**0.5 / 2 + screen.longest * screening._ROUNDING * size
        assert (off <= screen.off.double() * size + common).all()


def test_few_tokens_are_scored_with_floats(monkeypatch):
    draw = torch.Generator().manual_seed(3)
    # What all tokens share does not make more of them candidates.
    head = torch.randn(20000, 64, generator=draw) + 5 * torch.randn(64, generator=draw)
    screen, row = Screen(head), torch.randn(64, generator=draw)
    screen.weight = NotWhole(screen.weight)
    screen.best(row)
    assert 1 <= screen.weight.picked < 200


class NotWhole:
    """A weight of which only rows may be read."""

    def __init__(self, weight):
        self.weight, self.picked = weight, 0

    def __len__(self):
        return len(self.weight)

    def index_select(self, dim, index):
        self.picked += len(index)
        return self.weight.index_select(dim, index)


@pytest.mark.parametrize("row", [torch.zeros(64), torch.full((64,), torch.nan), torch.full((64,), 1e38)])
def test_rows_without_a_size_are_scored_as_ever(row):
    weight = torch.randn(300, 64, generator=torch.Generator().manual_seed(4))
    assert int(Screen(weight).best(row)) == int(torch.mv(weight, row).max(0).indices)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_weights_that_are_no_numbers_are_scored_as_ever(number):
    weight = torch.randn(300, 64, generator=torch.Generator().manual_seed(5))
    weight[7, 3] = number
    row = torch.ones(64)
    assert int(Screen(weight).best(row)) == int(torch.mv(weight, row).max(0).indices)


def test_the_default_type_of_numbers_does_not_matter():
    weight, row = torch.randn(300, 64, dtype=torch.float32), torch.randn(64, dtype=torch.float32)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert int(Screen(weight).best(row)) == int((weight @ row).argmax())
    finally:
        torch.set_default_dtype(before)


def answers(backbone, log_probs, adapter=None):
    decoder = backbone.bind(backbone.embed(PROMPT), LENGTHS, adapter=adapter)
    options = GenerationOptions(log_probs=log_probs)
    return generate(decoder, PROMPT, LENGTHS, eos=-1, limits=LENGTHS + 20, options=options)[0][0]


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "nemotron_h"])
def test_a_backbone_writes_the_same_tokens(architecture, everywhere):
    backbone = make(architecture)
    told, untold = answers(backbone, True), answers(backbone, False)
    assert untold.tokens == told.tokens
    assert len(told.log_probs) == 20
    assert untold.log_probs == []
    assert untold.score == 0.0
    assert len(everywhere) == (0 if architecture == "nemotron_h" else 19)


@torch.inference_mode()
def test_a_head_with_an_adapter_is_not_screened(everywhere):
    # Its adapter has a part in the head.
    backbone = with_adapters("smollm3", "one")
    assert answers(backbone, False, "one").tokens == answers(backbone, True, "one").tokens
    assert not everywhere


@torch.inference_mode()
def test_several_rows_and_fixed_sizes_choose_among_all_scores(everywhere):
    backbone = make("llama")
    ids, lengths = PROMPT.repeat(2, 1), torch.tensor([12, 7])
    options = GenerationOptions(log_probs=False)
    for fixed in (None, True):
        backbone.fixed = fixed
        found = []
        for wanted in (GenerationOptions(), options):
            decoder = backbone.bind(backbone.embed(ids), lengths)
            found.append(
                [
                    (said.row, said.token)
                    for said in generate_stream(
                        decoder, ids, lengths, eos=-1, limits=lengths + 8, options=wanted
                    )
                ]
            )
        assert found[0] == found[1]
    assert not everywhere


def test_a_head_is_copied_only_for_those_who_ask_for_scores(everywhere, monkeypatch):
    made, original = [], RowSteps._scores.func
    monkeypatch.setattr(RowSteps._scores, "func", lambda self: made.append(1) or original(self))
    backbone = make("llama")
    answers(backbone, False)
    assert not made
    answers(backbone, True)
    assert made == [1]
