"""A real language model writes its stories through the engine."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.common.nn.generation import GenerationOptions, generate, generate_stream
from tests.llm.stories import Pieces, needs_stories, stories

pytestmark = needs_stories


@pytest.fixture(scope="module")
def model():
    return stories(), Pieces()


def told(model, openings, options=None, new=40):
    backbone, pieces = model
    rows = [pieces.encode(opening) for opening in openings]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    decoder = backbone.bind(backbone.embed(ids), lengths)
    found = generate(decoder, ids, lengths, eos=pieces.bos, limits=lengths + new, options=options)
    return [pieces.decode(row[0].tokens) for row in found]


def test_texts_come_back_from_their_tokens(model):
    _, pieces = model
    assert pieces.decode(pieces.encode("Once upon a time, there was a little girl.")) == (
        "Once upon a time, there was a little girl."
    )
    assert len(pieces.encode("Once upon a time")) < 10


def test_it_knows_how_stories_begin(model):
    backbone, pieces = model
    ids = torch.tensor([pieces.encode("Once upon a time, there was a little girl named Lily.")])
    with torch.no_grad():
        scores = backbone.logits(backbone(backbone.embed(ids)))[0, :-1].log_softmax(-1)
    assert float(-scores.gather(1, ids[0, 1:, None]).mean()) < 0.6


def test_it_tells_fluent_stories(model):
    assert told(model, ["Once upon a time", "One day, a boy"]) == [
        ", there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball.",
        "named Tim went to the park with his mom. They saw a big box with a big box. "
        "Tim wanted to play with it, but he did n",
    ]


def test_beam_search_finds_more_probable_stories(model):
    backbone, pieces = model
    ids = torch.tensor([pieces.encode("Tom and")])
    lengths = torch.tensor([ids.shape[1]])
    scores = []
    for beam in (1, 4):
        decoder = backbone.bind(backbone.embed(ids), lengths)
        options = GenerationOptions(beam=beam, max_new_tokens=25)
        found = generate(decoder, ids, lengths, eos=1, limits=lengths + 25, options=options)
        scores.append(found[0][0].score)
    assert scores[1] > scores[0]


def test_a_stream_tells_the_same_story(model):
    backbone, pieces = model
    ids = torch.tensor([pieces.encode("Once upon a time")])
    lengths = torch.tensor([ids.shape[1]])
    stream = generate_stream(
        backbone.bind(backbone.embed(ids), lengths), ids, lengths, eos=1, limits=lengths + 40
    )
    tokens = [said.token for said in stream if said.token is not None]
    assert pieces.decode(tokens) == told(model, ["Once upon a time"])[0]
