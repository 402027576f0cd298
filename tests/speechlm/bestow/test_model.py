"""BESTOW as a model: text passes it untouched, rows do not mix, and it decodes through the common engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aronnax.collections.common.nn.generation import GenerationOptions, generate
from aronnax.collections.speechlm.bestow.model import BESTOW, BESTOWConfig
from aronnax.collections.speechlm.bestow.reader import ReaderConfig
from aronnax.core.errors import ConfigError

from .conftest import RATE, batch_of, bestow, question, scores, signal, spoken


def test_text_alone_is_answered_by_the_language_model_alone(model):
    ids = model.text.render(question("how many")).ids
    with torch.inference_mode():
        alone, _ = model.llm.prefill(
            model.llm.embed(torch.tensor([ids])), torch.tensor([len(ids)]), capacity=40
        )
        assert torch.equal(scores(model, ids), alone)


def test_speech_changes_the_answer_and_so_does_other_speech(model):
    ids = model.text.render(spoken("say", ...)).ids
    first, second = scores(model, ids, [signal(1.0, 0)]), scores(model, ids, [signal(1.0, 1)])
    assert (first - second).abs().max() > 1e-3


def test_the_language_model_reads_the_words_alone_however_long_the_speech(model):
    ids = model.text.render(spoken("say", ...)).ids
    assert model.positions(ids, [1000]) == model.positions(ids, [90_000]) == len(ids) - 1
    decoder, lengths = model.decoder_for([ids], [[signal(9.0)]])
    assert decoder.prompts.embeddings.shape[1] == int(lengths[0]) == len(ids) - 1


def test_a_row_does_not_depend_on_its_batch(model):
    conversations = [
        spoken("say", ..., seconds=1.0, seed=0),
        spoken("say", ..., "then", ..., seconds=0.4, seed=1),
        question("how many"),
        spoken(..., "what then", seconds=2.0, seed=2),
    ]
    together = model.generate(conversations, max_new_tokens=12, batch_size=4)
    for messages, reply in zip(conversations, together):
        alone = model.generate(messages, max_new_tokens=12)
        assert alone.tokens == reply.tokens
        torch.testing.assert_close(
            torch.tensor(alone.log_probs), torch.tensor(reply.log_probs), atol=1e-4, rtol=0
        )


def test_decoding_with_caches_is_the_whole_pass_for_each_token(model):
    messages = spoken("say", ..., seconds=1.3)
    reply = model.generate(messages, max_new_tokens=10)
    assert len(reply.tokens) > 3
    ids, known = model.text.render(messages).ids, []
    for token, log_prob in zip(reply.tokens, reply.log_probs):
        whole = scores(model, [*ids, *known], [signal(1.3)])[0].log_softmax(-1)
        assert int(whole.argmax()) == token
        assert abs(float(whole[token]) - log_prob) < 1e-4
        known.append(token)


def best_of_all(model, ids, heard, steps, beam):
    """Beam search written out: every beginning is scored by whole passes."""
    beams, end = [(0.0, [])], model.text.end_ids[0]
    for _ in range(steps):
        longer = []
        for total, tokens in beams:
            if tokens and tokens[-1] == end:
                longer.append((total, tokens))
                continue
            each = scores(model, [*ids, *tokens], [heard])[0].log_softmax(-1)
            longer += [(total + float(each[token]), [*tokens, token]) for token in range(len(each))]
        beams = sorted(longer, key=lambda one: -one[0])[:beam]
    total, tokens = beams[0]
    return total, [token for token in tokens if token != end]


def test_beam_search_finds_what_it_finds_written_out(model):
    heard, messages = signal(0.8), spoken("say", ..., seconds=0.8)
    ids = model.text.render(messages).ids
    total, tokens = best_of_all(model, ids, heard, steps=4, beam=3)
    rows = [ids, model.text.render(question("how many")).ids]
    decoder, lengths = model.decoder_for(rows, [[heard], []])
    found = generate(
        decoder,
        lengths.new_zeros(2, int(lengths.max())),
        lengths,
        eos=model.text.end_ids[0],
        limits=lengths + 4,
        options=GenerationOptions(beam=3),
    )[0][0]
    assert found.tokens == tokens
    assert abs(found.score - total) < 1e-4


def test_answers_are_drawn_alike_with_the_same_seed(model):
    messages = spoken("say", ...)
    first = model.generate(messages, temperature=1.0, seed=3, n_best=2, max_new_tokens=6)
    again = model.generate([messages, question("what")], temperature=1.0, seed=3, n_best=2, max_new_tokens=6)
    assert [one.tokens for one in first] == [one.tokens for one in again[0]]


def test_training_and_answering_see_the_same(model):
    messages = spoken("say", ..., seconds=0.9)
    reply = model.generate(messages, max_new_tokens=6)
    written = model.text.decode(reply.tokens, skip_special=False)
    batch = batch_of(model, (messages, written), (question("how many"), "one two"))
    with torch.no_grad():
        hidden, labels = model.training_hidden(batch)
        log_probs = model.llm.logits(hidden).log_softmax(-1)
    said = labels[0][labels[0] >= 0]
    assert said[1 : 1 + len(reply.tokens)].tolist() == list(reply.tokens)
    taught = log_probs[0][labels[0] >= 0].gather(1, said[:, None])[:, 0]
    wanted = torch.tensor(reply.log_probs)
    torch.testing.assert_close(taught[1 : 1 + len(wanted)], wanted, atol=1e-4, rtol=0)


def test_a_later_recording_changes_no_earlier_answer(model):
    first = spoken("say", ..., seconds=0.9)
    turns = [*first, {"role": "assistant", "content": "one two"}, *spoken("then", ..., seed=4)]
    with torch.no_grad():
        short, labels = model.training_hidden(batch_of(model, (first, "one two")))
        long, _ = model.training_hidden(batch_of(model, (turns, "three")))
    taught = labels[0] >= 0
    torch.testing.assert_close(long[0, : short.shape[1]][taught], short[0][taught], atol=1e-5, rtol=1e-5)


def test_only_answers_are_learned_and_text_rows_leave_the_reader_alone(model):
    batch = batch_of(model, (spoken("say", ...), "one"), (question("how many"), "two three"))
    hidden, labels = model.training_hidden(batch)
    assert (labels >= 0).sum(1).tolist() == [3, 4]  # the assistant's mark, words, the end
    rows = [
        torch.autograd.grad(hidden[row].sum(), model.reader.parameters(), retain_graph=True) for row in (0, 1)
    ]
    assert sum(float(one.abs().sum()) for one in rows[0]) > 0
    assert all(float(one.abs().sum()) == 0 for one in rows[1])


def test_a_batch_without_recordings_trains(model):
    hidden, labels = model.training_hidden(batch_of(model, (question("how many"), "two")))
    hidden[labels >= 0].sum().backward()
    assert all(one.grad is not None for one in model.reader.parameters())
    model.zero_grad()


def test_waiting_in_training_hides_what_a_stream_would_not_have_heard():
    config = bestow().config
    sure = replace(
        config, reader=ReaderConfig(n_heads=2, attention_dropout=0, layer_dropout=0, ffn_dropout=0)
    )
    sure = replace(sure, waits=(1,), stride=2)
    waiting = BESTOW(sure, bestow().tokenizer)
    waiting.load_state_dict(bestow().state_dict())
    waiting.eval()
    batch = batch_of(waiting, (spoken("say", ..., seconds=2.0), "one two three"))
    places = (waiting.training_hidden(batch)[1][0] >= 0).nonzero()[:, 0]
    with torch.no_grad():
        offline, _ = waiting.training_hidden(batch)
        waiting.reader.train()  # nothing but the reader: dropout of the encoder is another matter
        waiting.training = True
        hidden, _ = waiting.training_hidden(batch)
    assert (hidden[0, places] - offline[0, places]).abs().amax(1).gt(1e-4).all()


def test_each_row_draws_how_long_it_waits():
    model = bestow(waits=(1, 2, None), stride=2)
    torch.manual_seed(0)
    drawn = model._waits_for(300, model.config.waits)
    counts = [int((drawn == k).sum()) for k in drawn.unique()]
    assert len(counts) == 3
    assert min(counts) > 70


def test_a_zero_start_is_the_language_model_at_step_nought():
    model = bestow(reader=ReaderConfig(n_heads=2, zero_start=True))
    torch.nn.init.zeros_(model.reader.output_proj.weight)
    ids = model.text.render(spoken("say", ...)).ids
    words = [token for token in ids if token >= 0]
    with torch.inference_mode():
        alone, _ = model.llm.prefill(
            model.llm.embed(torch.tensor([words])), torch.tensor([len(words)]), capacity=40
        )
        assert torch.equal(scores(model, ids, [signal(1.0)]), alone)


def test_it_transcribes_like_any_recogniser(model):
    found = model.transcribe((signal(1.0).numpy(), RATE), max_new_tokens=6)
    assert found.text == model.generate(spoken("say", ...), max_new_tokens=6).text


def test_it_is_saved_and_loaded(model, tmp_path):
    import aronnax

    model.save_pretrained(tmp_path / "model")
    loaded = aronnax.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, BESTOW)
    assert loaded.config == model.config
    messages = spoken("say", ...)
    assert (
        loaded.generate(messages, max_new_tokens=6).tokens
        == model.generate(messages, max_new_tokens=6).tokens
    )


@pytest.mark.parametrize("wrong", [{"waits": ()}, {"waits": (0,)}, {"stride": 0}])
def test_a_policy_that_makes_no_sense_is_refused_by_name(model, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BESTOWConfig(**{"backbone": model.config.backbone, **wrong})
