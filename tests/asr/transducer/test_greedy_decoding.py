"""Greedy transducer decoding against the rule written out for one row and one frame at a time."""

from __future__ import annotations

import threading

import pytest
import torch

from aronnax.collections.asr.transducer import decoding
from aronnax.collections.asr.transducer.decoding import TransducerDecoder
from aronnax.collections.asr.transducer.graphs import StepRunner
from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig, PredictionNetwork

KINDS = [(), (0, 1, 2, 3, 4), (1, 2), (0, 2, 5)]
VOCABULARY = 7


def make(durations, seed, layers=1, max_symbols=3, blank_bias=0.4):
    torch.manual_seed(seed)
    network = PredictionNetwork(PredictionConfig(hidden=16, layers=layers, dropout=0.0), VOCABULARY).eval()
    joint = Joint(JointConfig(hidden=20, dropout=0.0), 12, 16, VOCABULARY, len(durations)).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(3.0)
        joint.output.weight.mul_(4.0)
        joint.output.bias[VOCABULARY] += blank_bias
    return TransducerDecoder(network, joint, durations, max_symbols), network, joint


@torch.no_grad()
def by_hand(network, joint, durations, max_symbols, states):
    """(token, frame, duration) of one row [T, D], by the book."""
    said, memory = [], None
    output, memory = network.lstm(torch.zeros(1, 1, 16))
    t, at_frame = 0, 0
    while t < len(states):
        scores = joint(states[t : t + 1][None], output)[0, 0, 0]
        token = int(scores[: VOCABULARY + 1].argmax())
        duration = (
            durations[int(scores[VOCABULARY + 1 :].argmax())] if durations else int(token == VOCABULARY)
        )
        if token == VOCABULARY:
            t, at_frame = t + max(duration, 1), 0
            continue
        said.append((token, t, duration))
        output, memory = network.lstm(network.embedding(torch.tensor([[token]])), memory)
        at_frame += 1
        if duration == 0 and at_frame >= max_symbols:
            duration = 1
        t, at_frame = t + duration, at_frame if duration == 0 else 0
    return said


def triples(hypothesis, durations):
    lasting = hypothesis.durations if durations else [0] * len(hypothesis.tokens)
    return list(zip(hypothesis.tokens, hypothesis.frames, lasting))


@pytest.mark.parametrize("durations", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("blank_bias", [-3.0, 0.4, 6.0])
def test_batched_decoding_follows_the_rule_of_one_row(durations, layers, blank_bias):
    decoder, network, joint = make(durations, 5, layers, blank_bias=blank_bias)
    states, lengths = torch.randn(6, 40, 12), torch.tensor([40, 1, 17, 33, 40, 8])
    hypotheses, carry = decoder(states, lengths, confidence="max_prob")
    for row, hypothesis in enumerate(hypotheses):
        truth = by_hand(network, joint, durations, 3, states[row, : lengths[row]])
        assert triples(hypothesis, durations) == truth
        assert len(hypothesis.confidences) == len(truth)
        assert all(0 <= value <= 1 for value in hypothesis.confidences)
    if blank_bias == 0.4:
        assert sum(len(h.tokens) for h in hypotheses) > 10
    assert (carry.overshoot >= 0).all()


@pytest.mark.parametrize("durations", KINDS)
@pytest.mark.parametrize("longest_block", [1, 3, 8])
def test_the_block_of_frames_changes_nothing(durations, longest_block, monkeypatch):
    decoder, _, _ = make(durations, 9, blank_bias=3.0)
    states, lengths = torch.randn(3, 50, 12), torch.tensor([50, 31, 2])
    truth, _ = decoder(states, lengths)
    monkeypatch.setattr(decoding, "LONGEST_BLOCK", longest_block)
    again, _ = decoder(states, lengths)
    assert [(h.tokens, h.frames, h.durations) for h in again] == [
        (h.tokens, h.frames, h.durations) for h in truth
    ]


@pytest.mark.parametrize("durations", KINDS)
def test_the_step_of_a_cuda_graph_gives_the_eager_result(durations):
    decoder, _, _ = make(durations, 2)
    states, lengths = torch.randn(5, 30, 12), torch.tensor([30, 3, 11, 29, 16])
    truth, carry = decoder(states, lengths)
    with torch.inference_mode():
        weights, _ = decoder.prepared()
        runner = StepRunner(weights, decoder._start(weights, states, lengths, None), 3, block=4)
        for _ in range(2):
            state = decoder._start(weights, states, lengths, None)
            book = decoding._Book(5, "tsallis", bool(durations))
            for rows, said in runner.run(state):
                book.add(rows, said)
            book.flush()
            for ours, eager in zip(book.hypotheses, truth):
                assert (ours.tokens, ours.frames, ours.durations) == (
                    eager.tokens,
                    eager.frames,
                    eager.durations,
                )
                assert ours.confidences == pytest.approx(eager.confidences, abs=1e-5)
            torch.testing.assert_close(state.hidden, carry.hidden)
            torch.testing.assert_close((state.time - lengths).clamp(min=0), carry.overshoot)


@pytest.mark.parametrize("durations", KINDS)
def test_pieces_give_what_the_whole_gives(durations):
    generator = torch.Generator().manual_seed(4)
    for case in range(50):
        decoder, _, _ = make(durations, case, blank_bias=float(torch.rand((), generator=generator)) * 3)
        lengths = torch.randint(1, 30, (3,), generator=generator)
        states = torch.randn(3, int(lengths.max()), 12, generator=generator)
        whole, _ = decoder(states, lengths, confidence=None)
        tokens, frames, lasting = [[], [], []], [[], [], []], [[], [], []]
        carry, start = None, 0
        while start < states.shape[1]:
            size = int(torch.randint(1, 12, (), generator=generator))
            left = (lengths - start).clamp(0, size)
            piece, carry = decoder(states[:, start : start + size], left, confidence=None, carry=carry)
            for row, hypothesis in enumerate(piece):
                tokens[row] += hypothesis.tokens
                frames[row] += [frame + start for frame in hypothesis.frames]
                lasting[row] += hypothesis.durations
            start += size
        assert tokens == [h.tokens for h in whole]
        assert frames == [h.frames for h in whole]
        assert lasting == [h.durations for h in whole]


def test_a_row_decodes_the_same_alone_and_beside_others():
    decoder, _, _ = make((0, 1, 2, 3, 4), 3)
    states, lengths = torch.randn(4, 25, 12), torch.tensor([25, 4, 14, 20])
    together, _ = decoder(states, lengths)
    for row in range(4):
        (alone,), _ = decoder(states[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert (alone.tokens, alone.frames, alone.durations) == (
            together[row].tokens,
            together[row].frames,
            together[row].durations,
        )
        assert alone.score == pytest.approx(together[row].score, abs=1e-4)


def test_changed_weights_are_seen():
    decoder, network, joint = make((), 1)
    states, lengths = torch.randn(2, 30, 12), torch.tensor([30, 30])
    decoder(states, lengths)
    with torch.no_grad():
        network.embedding.weight[:VOCABULARY].add_(torch.randn(VOCABULARY, 16))
    hypotheses, _ = decoder(states, lengths)
    for row, hypothesis in enumerate(hypotheses):
        assert triples(hypothesis, ()) == by_hand(network, joint, (), 3, states[row])


def test_sixteen_threads_decode_as_one():
    decoder, _, _ = make((0, 1, 2, 3, 4), 8)
    inputs = [torch.randn(2, 20 + k, 12) for k in range(16)]
    lengths = [torch.tensor([20 + k, 11]) for k in range(16)]
    serial = [decoder(states, length)[0] for states, length in zip(inputs, lengths)]
    threaded: list = [None] * 16

    def work(k):
        threaded[k] = decoder(inputs[k], lengths[k])[0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threaded == serial
