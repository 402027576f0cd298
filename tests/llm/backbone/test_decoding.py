"""Backbones decode through the engine: the tokens of transformers' `generate`, however the work is arranged."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.common.nn.generation import GenerationOptions, generate
from aronnax.collections.common.nn.generation.beam import beam_search
from aronnax.collections.common.nn.generation.stopping import Stopping
from aronnax.collections.llm.backbone.hf_step import HfSteps
from aronnax.collections.llm.backbone.padding import to_left
from aronnax.collections.llm.backbone.steps import FixedSteps
from aronnax.core.errors import OptionError
from tests.llm.backbone.shapes import OTHERS, SHAPES, VOCABULARY, make, texts

EOS, NEW = 2, 12
OWN = [*SHAPES, "mistral", "qwen2"]


@pytest.fixture(scope="module", params=[*SHAPES, *OTHERS])
def backbone(request):
    return make(request.param)


def prompts(backbone):
    ids, lengths = texts()
    return ids, lengths, backbone.embed(ids).detach()


def answers(backbone, options=None, rows=None, **how):
    """Tokens of the engine; `rows` cuts them out of the batch and decodes them without padding."""
    ids, lengths, embeddings = prompts(backbone)
    if rows is not None:
        lengths = lengths[rows]
        ids, embeddings = ids[rows, : int(lengths.max())], embeddings[rows, : int(lengths.max())]
    if how.get("left_padded"):
        embeddings = to_left(embeddings, lengths)
    decoder = backbone.bind(embeddings, lengths, **how)
    limits = lengths + NEW
    found = generate(decoder, torch.zeros_like(ids), lengths, eos=EOS, limits=limits, options=options)
    return [[one.tokens for one in row] for row in found]


@torch.no_grad()
def of_transformers(backbone):
    ids, lengths, _ = prompts(backbone)
    found = []
    for row, n in enumerate(lengths.tolist()):
        said = backbone.causal.generate(
            ids[row : row + 1, :n],
            attention_mask=torch.ones(1, n, dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=0,
        )[0, n:].tolist()
        found.append([said[: said.index(EOS)] if EOS in said else said])
    return found


@torch.no_grad()
def stepwise(backbone, more, fixed=None, **how):
    """Scores after the prompts and after each of `more` [steps, B]."""
    ids, lengths, embeddings = prompts(backbone)
    if how.get("left_padded"):
        embeddings = to_left(embeddings, lengths)
    before, backbone.fixed = backbone.fixed, fixed
    decoder = backbone.bind(embeddings, lengths, **how)
    backbone.fixed = before
    scores, cache = decoder.prefill(ids, lengths, capacity=ids.shape[1] + len(more))
    found = [scores.clone(), *(decoder.step(tokens, cache).clone() for tokens in more)]
    decoder.release(cache)
    return torch.stack(found)


def some_tokens(steps=6):
    return torch.randint(3, VOCABULARY, (steps, 4), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def whole(backbone, more):
    """The same scores by whole forward passes over each row alone."""
    ids, lengths, _ = prompts(backbone)
    found = torch.empty(len(more) + 1, len(ids), VOCABULARY)
    for row, n in enumerate(lengths.tolist()):
        text = torch.cat([ids[row, :n], more[:, row]])[None]
        found[:, row] = backbone.causal(input_ids=text).logits[0, n - 1 :]
    return found


def test_the_families_have_steps_of_their_own():
    for architecture in [*SHAPES, *OTHERS]:
        backbone = make(architecture)
        _, lengths, embeddings = prompts(backbone)
        steps = backbone.bind(embeddings, lengths).steps
        assert isinstance(steps, FixedSteps if architecture in OWN else HfSteps)


def test_tokens_are_those_of_transformers(backbone):
    said = answers(backbone)
    assert said == of_transformers(backbone)
    assert len({tuple(row[0]) for row in said}) == 4


@pytest.mark.parametrize("chunk", [None, 1, 5, 8, 37])
def test_cached_scores_are_those_of_the_whole_text(backbone, chunk):
    more = some_tokens()
    assert float((stepwise(backbone, more, chunk=chunk) - whole(backbone, more)).abs().max()) < 5e-5


@pytest.mark.parametrize("chunk", [None, 5])
def test_layers_behind_the_last_that_mixes_positions_see_the_last_of_each_row(chunk):
    backbone, more = make("nemotron_h", hybrid_override_pattern="MEM*E-"), some_tokens()
    assert float((stepwise(backbone, more, chunk=chunk) - whole(backbone, more)).abs().max()) < 5e-5


def test_left_padding_is_right_padding(backbone):
    more = some_tokens()
    assert torch.equal(stepwise(backbone, more, left_padded=True), stepwise(backbone, more))


@torch.no_grad()
@pytest.mark.parametrize("architecture", OWN)
@pytest.mark.parametrize("chunk", [None, 5])
def test_nothing_is_computed_for_padding(architecture, chunk):
    backbone = make(architecture)
    _, lengths, embeddings = prompts(backbone)
    wide = torch.full((len(embeddings), embeddings.shape[1] + 7, embeddings.shape[2]), torch.nan)
    for row, n in enumerate(lengths.tolist()):
        wide[row, :n] = embeddings[row, :n]
    (scores, cache), (want, _) = (
        backbone.prefill(x, lengths, capacity=60, chunk=chunk) for x in (wide, embeddings)
    )
    assert torch.equal(scores, want)
    assert all(bool(one.isfinite().all()) for one in [*cache.keys, *cache.values, *cache.states])


@pytest.mark.parametrize("chunk", [None, 8])
def test_fixed_sizes_give_the_scores_of_exact_ones(backbone, chunk):
    more = some_tokens()
    exact = stepwise(backbone, more, fixed=False, chunk=chunk)
    assert float((stepwise(backbone, more, fixed=True, chunk=chunk) - exact).abs().max()) < 5e-5


OPTIONS = {
    "greedy": GenerationOptions(),
    "beam": GenerationOptions(beam=3, n_best=2),
    "sampling": GenerationOptions(temperature=0.8, seed=7, n_best=2),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_row_decodes_alone_as_in_its_batch_and_in_fixed_sizes(backbone, options):
    together = answers(backbone, options)
    assert [answers(backbone, options, rows=[row])[0] for row in range(4)] == together
    backbone.fixed = True
    try:
        assert answers(backbone, options) == together
    finally:
        backbone.fixed = None


def test_a_beam_of_one_is_greedy_decoding(backbone):
    ids, lengths, embeddings = prompts(backbone)
    decoder = backbone.bind(embeddings, lengths)
    found = beam_search(
        decoder, ids, lengths, [NEW] * 4, GenerationOptions(), Stopping(EOS, None, (), ()), True
    )
    assert [[one.tokens for one in row] for row in found] == answers(backbone)


@pytest.mark.parametrize("fixed", [False, True])
def test_rolling_back_gives_the_same_scores_again(backbone, fixed):
    ids, lengths, embeddings = prompts(backbone)
    backbone.fixed = fixed
    decoder = backbone.bind(embeddings, lengths)
    backbone.fixed = None
    more = some_tokens()
    with torch.no_grad():
        _, cache = decoder.prefill(ids, lengths, capacity=60)
        early = cache.snapshot()
        first = decoder.step(more[0], cache).clone()
        mark = cache.snapshot()
        after = [decoder.step(tokens, cache).clone() for tokens in more[1:4]]
        cache.rollback(mark)
        for tokens in more[4:]:
            decoder.step(tokens, cache)
        cache.rollback(mark)
        assert all(torch.equal(decoder.step(t, cache), one) for t, one in zip(more[1:4], after))
        cache.rollback(early)
        assert torch.equal(decoder.step(more[0], cache), first)
        cache.select([0, 3])
        with pytest.raises(OptionError, match="moved"):
            cache.rollback(mark)


def test_the_model_steps_by_itself_too(backbone):
    _, lengths, embeddings = prompts(backbone)
    more = some_tokens()
    with torch.no_grad():
        scores, cache = backbone.prefill(embeddings, lengths, capacity=50)
        found = [scores, *(backbone.step(backbone.embed(tokens), cache) for tokens in more)]
    assert torch.equal(torch.stack(found), stepwise(backbone, more))


def test_no_rows_give_no_answers_and_have_no_scores(backbone):
    none, lengths = torch.zeros(0, 4, backbone.width), torch.zeros(0, dtype=torch.long)
    decoder = backbone.bind(none, lengths)
    assert generate(decoder, torch.zeros(0, 4, dtype=torch.long), lengths, eos=EOS, limits=lengths) == []
    with pytest.raises(OptionError, match="there are no prompts to compute: give embeddings of one row"):
        backbone.prefill(none, lengths, capacity=8)


def test_a_changed_weight_is_seen(backbone):
    before = answers(backbone)
    weight = backbone.embedding.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.25)
        assert answers(backbone) == of_transformers(backbone) != before
        for parameter in backbone.parameters():
            parameter.div_(1.25)
    assert torch.allclose(weight, kept)


def test_a_weight_changed_behind_torch_s_back_is_seen_after_eval():
    backbone = make("llama")
    before = answers(backbone)
    for parameter in backbone.parameters():
        parameter.data.mul_(1.25)
    backbone.eval()
    assert answers(backbone) == of_transformers(backbone) != before


@pytest.mark.parametrize("architecture", OWN)
def test_half_precision_decodes_as_its_own_forward_pass(architecture):
    backbone = make(architecture).to(torch.bfloat16)
    more = some_tokens(3)
    gap = (stepwise(backbone, more).float() - whole(backbone, more)).abs()
    # Not the mean: a router may choose another expert by a rounding.
    assert float(gap.median()) < 0.05 * float(whole(backbone, more).std())


def test_rotary_positions_may_be_scaled():
    scaling = {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 100.0,
    }
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 100.0}
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    more = some_tokens(3)
    for rope, kind in ((scaling, FixedSteps), (yarn, FixedSteps), (dynamic, HfSteps)):
        backbone = make("llama", rope_parameters=rope, attention_bias=True, mlp_bias=True)
        _, lengths, embeddings = prompts(backbone)
        assert isinstance(backbone.bind(embeddings, lengths).steps, kind)
        assert float((stepwise(backbone, more) - whole(backbone, more)).abs().max()) < 5e-5


def test_a_chunk_of_no_positions_is_named():
    backbone = make("llama")
    _, lengths, embeddings = prompts(backbone)
    with pytest.raises(OptionError, match="chunk is 0"):
        backbone.bind(embeddings, lengths, chunk=0)
