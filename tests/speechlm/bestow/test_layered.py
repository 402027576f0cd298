"""The T5 style: cross-attention before every layer, over a language model that is not touched."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.speechlm.bestow.layered import LayeredConfig, layers_of
from aronnax.collections.speechlm.bestow.sight import sight, text_of
from aronnax.core.errors import ConfigError

from .conftest import batch_of, bestow, question, scores, signal, spoken


@pytest.fixture(scope="module")
def layered():
    return bestow(layered=LayeredConfig(n_heads=2, zero_start=False))


def test_text_alone_is_answered_by_the_language_model_alone(layered):
    ids = layered.text.render(question("how many")).ids
    with torch.inference_mode():
        embedded = layered.llm.embed(torch.tensor([ids]))
        hidden = layered.llm(embedded, torch.tensor([len(ids)]))
        alone = layered.llm.logits(hidden[:, -1])
    torch.testing.assert_close(scores(layered, ids), alone, atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_its_batch(layered):
    conversations = [spoken("say", ...), question("how many"), spoken(..., "what then", seconds=2.0, seed=2)]
    together = layered.generate(conversations, max_new_tokens=8, batch_size=3)
    for messages, reply in zip(conversations, together):
        alone = layered.generate(messages, max_new_tokens=8)
        assert alone.tokens == reply.tokens
        torch.testing.assert_close(
            torch.tensor(alone.log_probs), torch.tensor(reply.log_probs), atol=1e-4, rtol=0
        )


def test_decoding_with_caches_is_the_whole_pass_for_each_token(layered):
    messages, known = spoken("say", ..., seconds=1.3), []
    reply = layered.generate(messages, max_new_tokens=8)
    ids = layered.text.render(messages).ids
    for token, log_prob in zip(reply.tokens, reply.log_probs):
        whole = scores(layered, [*ids, *known], [signal(1.3)])[0].log_softmax(-1)
        assert abs(float(whole[token]) - log_prob) < 1e-4
        known.append(token)


def test_beam_search_moves_rows_with_their_speech(layered):
    conversations = [spoken("say", ...), spoken("say", ..., seconds=2.0, seed=2)]
    together = layered.generate(conversations, max_new_tokens=6, beam=3)
    assert [reply.tokens for reply in together] == [
        layered.generate(messages, max_new_tokens=6, beam=3).tokens for messages in conversations
    ]


def test_waiting_hides_frames_from_every_layer(layered):
    ids = torch.tensor([[*layered.text.render(question(Audio("x"), "say")).ids, 5, 6, 7]])
    learned = torch.zeros_like(ids).bool()
    learned[:, -3:] = True
    text = text_of(ids, torch.tensor([ids.shape[1]]), learned)
    seen = sight(text, torch.tensor([[0, 12]]), torch.tensor([1]), 2)
    speech = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
    words = layered.llm.embed(text.ids)
    with torch.no_grad():
        whole = layered.reader(layered.llm, words, speech, seen)
        for frame in range(12):
            changed = speech.clone()
            changed[:, frame] += 1.0
            difference = (layered.reader(layered.llm, words, changed, seen) - whole).abs().amax(2)[0]
            for place in range(int(text.lengths[0])):
                assert (difference[place] > 0) == (frame < int(seen[0, place]))


def test_untrained_it_is_the_language_model_and_learns():
    model = bestow(layered=LayeredConfig(n_heads=2))
    for glance in model.reader.glances:
        torch.nn.init.zeros_(glance.attention.out_projection.weight)
    messages = spoken("say", ...)
    ids = model.text.render(messages).ids
    words = [token for token in ids if token >= 0]
    torch.testing.assert_close(scores(model, ids, [signal(1.0)]), scores(model, words), atol=0, rtol=0)
    hidden, labels = model.training_hidden(batch_of(model, (messages, "one two")))
    hidden[labels >= 0].square().sum().backward()
    assert model.reader.glances[0].attention.out_projection.weight.grad.abs().sum() > 0


def test_layers_that_are_not_in_a_list_are_refused():
    with pytest.raises(ConfigError, match="layered: the layers of Identity"):
        layers_of(torch.nn.Identity())
