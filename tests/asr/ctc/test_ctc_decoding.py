"""Greedy CTC decoding against the rule written out frame by frame."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.asr.ctc.decoding import ctc_greedy
from aronnax.collections.common.nn.confidence import confidence
from aronnax.core.errors import OptionError


def scores(batch, frames, classes=5, seed=0, blank_bias=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, classes, generator=generator) * 2
    logits[..., -1] += blank_bias
    return torch.log_softmax(logits, -1)


def by_hand(log_probs):
    """(token, frame, duration) of one row [T, V+1]."""
    blank, said, previous = log_probs.shape[-1] - 1, [], None
    for frame, best in enumerate(log_probs.argmax(-1).tolist()):
        if best != blank:
            if best == previous:
                said[-1][2] += 1
            else:
                said.append([best, frame, 1])
        previous = best
    return [tuple(entry) for entry in said]


def triples(hypothesis):
    return list(zip(hypothesis.tokens, hypothesis.frames, hypothesis.durations))


def test_runs_are_joined_and_blanks_left_out():
    lengths = torch.tensor([40, 0, 13, 1, 39])
    log_probs = scores(5, 40)
    hypotheses, _ = ctc_greedy(log_probs, lengths)
    for row, hypothesis in enumerate(hypotheses):
        assert triples(hypothesis) == by_hand(log_probs[row, : lengths[row]])
        assert len(hypothesis.confidences) == len(hypothesis.tokens)


def test_score_and_confidence_are_those_of_the_run():
    log_probs = scores(1, 30, seed=3)
    (hypothesis,), _ = ctc_greedy(log_probs, torch.tensor([30]), confidence="max_prob")
    by_frame = confidence(log_probs[0], "max_prob")
    best = log_probs[0].amax(-1)
    spans = [slice(f, f + d) for _, f, d in triples(hypothesis)]
    assert hypothesis.confidences == pytest.approx([float(by_frame[s].min()) for s in spans])
    assert hypothesis.score == pytest.approx(sum(float(best[s].sum()) for s in spans), abs=1e-4)


def test_pieces_give_what_the_whole_gives():
    generator = torch.Generator().manual_seed(1)
    for case in range(50):
        lengths = torch.randint(1, 30, (3,), generator=generator)
        log_probs = scores(3, int(lengths.max()), classes=3, seed=case, blank_bias=0.0)
        whole, _ = ctc_greedy(log_probs, lengths, confidence=None)
        found: list[list[list[int]]] = [[], [], []]
        carry, start = None, 0
        while start < log_probs.shape[1]:
            size = int(torch.randint(1, 8, (), generator=generator))
            left = (lengths - start).clamp(0, size)
            piece, carry = ctc_greedy(log_probs[:, start : start + size], left, confidence=None, carry=carry)
            for row, hypothesis in enumerate(piece):
                if carry.prolonged[row]:
                    found[row][-1][2] += int(carry.prolonged[row])
                found[row] += [[t, f + start, d] for t, f, d in triples(hypothesis)]
            start += size
        assert found == [[list(entry) for entry in triples(h)] for h in whole]


def test_padding_does_not_change_a_row():
    log_probs, lengths = scores(3, 20, seed=5), torch.tensor([20, 6, 11])
    together, _ = ctc_greedy(log_probs, lengths)
    for row in range(3):
        (alone,), _ = ctc_greedy(log_probs[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert triples(alone) == triples(together[row])
        assert alone.confidences == pytest.approx(together[row].confidences, abs=1e-5)
        assert alone.score == pytest.approx(together[row].score, abs=1e-4)


def test_confidence_runs_from_uniform_to_certain():
    uniform = torch.full((1, 8), 1 / 8).log()
    certain = torch.log_softmax(torch.tensor([[90.0, 0, 0, 0, 0, 0, 0, 0]]), -1)
    for measure in ("tsallis", "max_prob"):
        assert float(confidence(uniform, measure)) == pytest.approx(0, abs=1e-5)
        assert float(confidence(certain, measure)) == pytest.approx(1, abs=1e-5)


def test_an_unknown_measure_is_refused_by_name():
    with pytest.raises(OptionError, match="gibbs"):
        ctc_greedy(scores(1, 2), torch.tensor([2]), confidence="gibbs")
