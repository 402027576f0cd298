"""BESTOW live: the same tokens however samples arrive, and those of the masked pass where the encoder allows it."""

from __future__ import annotations

import math

import pytest
import torch

from aronnax.collections.llm.chat.messages import Audio
from aronnax.collections.speechlm.bestow.layered import LayeredConfig
from aronnax.collections.speechlm.bestow.reader import ReaderConfig
from aronnax.collections.speechlm.bestow.sight import sight, text_of
from aronnax.collections.speechlm.bestow.stream_state import StreamState
from aronnax.collections.speechlm.bestow.streaming import LIVE
from aronnax.collections.speechlm.bestow.waitk import WaitK
from aronnax.core.errors import AudioError, CheckpointError, OptionError

from .conftest import batch_of, bestow, question, signal

HEARD = signal(3.0)
FRAME = 80
"""Samples of a frame."""
ROOM = 12


def reply_of(stream, sizes=(3000,)):
    start = 0
    for size in sizes:
        stream.push(HEARD[start : start + size])
        start += size
    return stream.finish()


@pytest.mark.parametrize("k", [None, 100])
def test_waiting_for_all_is_answering_the_recording(model, k):
    stream = model.stream(WaitK(k, 4), max_new_tokens=ROOM)
    reply = reply_of(stream)
    offline = model.generate(question("say", Audio((HEARD.numpy(), 1000))), max_new_tokens=ROOM)
    assert reply.tokens == offline.tokens
    assert reply.text == offline.text
    torch.testing.assert_close(
        torch.tensor(reply.log_probs), torch.tensor(offline.log_probs), atol=1e-5, rtol=0
    )
    assert set(reply.times) == {3.0}


@pytest.mark.parametrize("history", [None, 1.0])
def test_pushes_of_any_size_give_the_same(model, history):
    policy = WaitK(2, 4, right=1)
    whole = model.stream(policy, history=history, max_new_tokens=ROOM)
    reply = reply_of(whole)
    assert len(reply.tokens) > 3
    for sizes in ([1, 319, 1, 2679], [500] * 6, [3000], [7] * 429):
        stream = model.stream(policy, history=history, max_new_tokens=ROOM)
        assert reply_of(stream, sizes) == reply
        assert stream.log == whole.log


def masked(model, tokens, policy):
    """Log-probabilities of tokens by one pass over all speech with the wait-k mask."""
    ids = [*model.text.render(question("say", Audio(LIVE))).ids, *tokens]
    learned = torch.tensor([[False] * (len(ids) - len(tokens)) + [True] * len(tokens)])
    text = text_of(torch.tensor([ids]), torch.tensor([len(ids)]), learned)
    frames = model.hear(HEARD[None], torch.tensor([len(HEARD)]))[0]
    seen = sight(text, torch.tensor([[0, len(frames)]]), torch.tensor([policy.k]), policy.stride)
    hidden = model.llm(model.reader(model.llm.embed(text.ids), frames[None], seen))
    log_probs = model.llm.logits(hidden)[0].log_softmax(-1)
    first = int(text.lengths[0]) - len(tokens) - 1
    return log_probs[first : first + len(tokens)]


@pytest.mark.parametrize("history", [None, 1.2])
@pytest.mark.parametrize(("k", "stride"), [(1, 4), (2, 4), (1, 8)])
def test_an_encoder_that_need_not_wait_gives_the_masked_pass(streamable, k, stride, history):
    policy = WaitK(k, stride, right=1)
    stream = streamable.stream(policy, history=history, max_new_tokens=ROOM)
    reply = reply_of(stream)
    with torch.inference_mode():
        whole = masked(streamable, reply.tokens, policy)
    assert len(reply.tokens) > 2
    assert whole.argmax(1).tolist() == list(reply.tokens)
    each = whole.gather(1, torch.tensor(reply.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(reply.log_probs), each, atol=1e-4, rtol=0)


def test_training_with_a_wait_sees_what_the_stream_sees():
    """The loss of a stream's own words is the stream's: what training hides is what was not heard."""
    model = bestow(
        streamable=True, waits=(2,), stride=4, reader=ReaderConfig(2, None, None, 2, 0.0, 0.0, 0.0)
    )
    reply = reply_of(model.stream(WaitK(2, 4, right=1), max_new_tokens=ROOM))
    written = model.text.decode(reply.tokens, skip_special=False)
    batch = batch_of(model, (question("say", Audio((HEARD.numpy(), 1000))), written))
    with torch.no_grad():
        model.training = True  # of the model alone: its parts stay as in inference
        hidden, labels = model.training_hidden(batch)
        model.training = False
        log_probs = model.llm.logits(hidden)[labels >= 0].log_softmax(-1)[model.given :]
    each = log_probs[: len(reply.tokens)].gather(1, torch.tensor(reply.tokens)[:, None])[:, 0]
    torch.testing.assert_close(each, torch.tensor(reply.log_probs), atol=1e-4, rtol=0)


def test_delays_are_the_policys(streamable):
    policy = WaitK(2, 4, right=1)
    stream = streamable.stream(policy, max_new_tokens=6)
    reply = reply_of(stream)
    frames = streamable.perception.frames(len(HEARD))
    delays = policy.delays(len(reply.tokens), frames)
    assert list(reply.times) == [min(3.0, delay * FRAME / 1000) for delay in delays]
    assert [one.heard for one in stream.log.written][: len(delays)] == list(reply.times)


def test_a_token_is_written_for_each_block_once_k_are_heard(model):
    stream = model.stream(WaitK(3, 4), max_new_tokens=ROOM)
    counts = [len(stream.push(HEARD[start : start + FRAME])) for start in range(0, 30 * FRAME, FRAME)]
    wrote = [place + 1 for place, count in enumerate(counts) if count]
    assert wrote == [12, 16, 20, 24, 28]
    assert max(counts) == 1


def test_lagging_grows_with_k(model):
    lags = []
    for k in (1, 2, 3, 4):
        stream = model.stream(WaitK(k, 4), max_new_tokens=6)
        reply_of(stream)
        lags.append(stream.log.laal("one two three four five six"))
    assert lags == sorted(lags)
    assert len(set(lags)) == 4


def test_an_end_before_the_end_of_speech_is_not_believed(monkeypatch):
    model = bestow()
    first = reply_of(model.stream(WaitK(1, 4), max_new_tokens=ROOM)).tokens
    # Whatever it says at third now ends the answer.
    monkeypatch.setattr(model.text, "end_ids", (first[2],))
    stream = model.stream(WaitK(1, 4), max_new_tokens=ROOM)
    written = [one for start in range(0, 2880, 320) for one in stream.push(HEARD[start : start + 320])]
    assert first[2] not in [one.token for one in written]
    reply = stream.finish()
    assert first[2] not in reply.tokens
    log = stream.log.written
    assert [one.end for one in log[:-1]] == [False] * (len(log) - 1)
    # Later tokens have waited for the blocks at which nothing was written.
    assert all(one.heard >= delay * FRAME / 1000 for one, delay in zip(log, WaitK(1, 4).delays(len(log), 36)))


@pytest.mark.parametrize("history", [None, 1.0])
@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_a_stream_goes_on_from_a_saved_state(model, history, cut):
    from safetensors.torch import load, save

    options = {"history": history, "max_new_tokens": ROOM}
    whole = model.stream(WaitK(2, 4), **options)
    reply = reply_of(whole)
    first = model.stream(WaitK(2, 4), **options)
    first.push(HEARD[:cut])
    state = StreamState.from_tensors(load(save(first.state.tensors())))
    second = model.stream(WaitK(2, 4), **options, state=state)
    second.push(HEARD[cut:])
    again = second.finish()
    assert (again.tokens, again.times, again.text) == (reply.tokens, reply.times, reply.text)
    torch.testing.assert_close(
        torch.tensor(again.log_probs), torch.tensor(reply.log_probs), atol=1e-4, rtol=0
    )
    assert [one.text for one in second.log.written] == [one.text for one in whole.log.written]


def test_what_is_kept_of_a_long_stream_is_bounded_with_a_history(model):
    stream = model.stream(WaitK(1, 4), history=0.5, max_new_tokens=100)
    longest = 0
    for start in range(0, 9000, 300):
        stream.push(signal(0.3, seed=start))
        longest = max(longest, len(stream.state.samples))
    assert longest < 2000


def test_a_conversation_may_have_recordings_before_the_live_one(model):
    earlier = Audio((signal(0.7, 5).numpy(), 1000))
    turns = [
        *question("say", earlier),
        {"role": "assistant", "content": "one two"},
        *question("then", Audio(LIVE)),
    ]
    stream = model.stream(messages=turns, max_new_tokens=ROOM)
    reply = reply_of(stream)
    turns[-1] = question("then", Audio((HEARD.numpy(), 1000)))[0]
    assert reply.tokens == model.generate(turns, max_new_tokens=ROOM).tokens


def test_the_pieces_of_the_log_are_the_text(model):
    stream = model.stream(WaitK(2, 4), max_new_tokens=ROOM)
    reply = reply_of(stream)
    assert "".join(one.text for one in stream.log.written) == reply.text
    assert stream.log.source == 3.0


def test_silence_of_no_length_is_answered_by_nothing(model):
    reply = model.stream(WaitK(2, 4)).finish()
    assert reply.text == ""
    assert reply.tokens == ()


def test_the_model_is_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reply_of(model.stream(WaitK(2, 4), max_new_tokens=ROOM))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_samples_are_named(model):
    stream = model.stream(WaitK(2, 4))
    stream.push(HEARD[:100])
    broken = HEARD[:10].clone()
    broken[3] = math.nan
    with pytest.raises(AudioError, match="sample 103 "):
        stream.push(broken)
    with pytest.raises(AudioError, match="one channel"):
        stream.push(HEARD[None])
    with pytest.raises(AudioError, match="8000 Hz"):
        stream.push(HEARD, sample_rate=8000)
    with pytest.raises(AudioError, match="int16"):
        stream.push(HEARD.to(torch.int16))


def test_what_cannot_be_streamed_is_refused(model):
    for number in (3, 0):
        with pytest.raises(OptionError, match=rf"policy is {number}: .*WaitK\(k=3, stride=4\)"):
            model.stream(number)
    with pytest.raises(OptionError, match="prompt or messages"):
        model.stream(prompt="say", messages=question("say", Audio(LIVE)))
    with pytest.raises(OptionError, match=r"Audio\(LIVE\)"):
        model.stream(messages=question("say"))
    with pytest.raises(OptionError, match=r"Audio\(LIVE\)"):
        model.stream(messages=question(Audio(LIVE), Audio((HEARD.numpy(), 1000))))
    with pytest.raises(OptionError, match="history is -1"):
        model.stream(history=-1.0)
    with pytest.raises(OptionError, match="no room"):
        model.stream(prompt="say " * 200)
    with pytest.raises(OptionError, match="layered"):
        bestow(layered=LayeredConfig(n_heads=2)).stream(WaitK(2, 4))
    finished = model.stream(WaitK(2, 4))
    finished.finish()
    with pytest.raises(OptionError, match="finished"):
        finished.push(HEARD)


def test_a_state_of_another_model_is_refused(model):
    stream = model.stream(WaitK(1, 4), max_new_tokens=4)
    stream.push(HEARD)
    tensors = stream.state.tensors()
    with pytest.raises(CheckpointError, match="lacks 'keys'"):
        StreamState.from_tensors({name: value for name, value in tensors.items() if name != "keys"})
    wider = StreamState.from_tensors({**tensors, "embeddings": torch.zeros(3, 99)})
    with pytest.raises(CheckpointError, match="embeddings"):
        model.stream(WaitK(1, 4), state=wider)
