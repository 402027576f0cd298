"""Forced alignment: the best path among all paths, and the words of a recording."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from aronnax.collections.asr.alignment import align, ctc_align
from aronnax.collections.asr.ctc.model import CTCModel, CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.transducer.model import TransducerModel, TransducerModelConfig
from aronnax.collections.common.text import CharacterTokenizer
from aronnax.core.errors import OptionError


def best_by_enumeration(log_probs, targets):
    """Score and frame-wise classes of the best path of one row [T, V+1], by trying all."""
    blank = log_probs.shape[1] - 1
    found = (-float("inf"), None)
    for path in itertools.product(sorted({blank, *targets}), repeat=len(log_probs)):
        joined = [c for c, _ in itertools.groupby(path) if c != blank]
        if joined == targets:
            score = float(sum(log_probs[t, c] for t, c in enumerate(path)))
            found = max(found, (score, path))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_path_is_the_best_of_all(seed):
    torch.manual_seed(seed)
    log_probs = torch.log_softmax(torch.randn(3, 7, 4) * 2, -1)
    lengths, counts = torch.tensor([7, 5, 6]), torch.tensor([3, 2, 0])
    targets = torch.tensor([[0, 1, 1], [2, 2, 0], [1, 1, 1]])
    hypotheses = ctc_align(log_probs, lengths, targets, counts)
    for row, hypothesis in enumerate(hypotheses):
        truth = targets[row, : counts[row]].tolist()
        score, path = best_by_enumeration(log_probs[row, : lengths[row]], truth)
        assert hypothesis.tokens == truth
        assert hypothesis.score == pytest.approx(score, abs=1e-4)
        runs, t = [], 0
        for label, run in itertools.groupby(path):
            size = len(list(run))
            if label != 3:
                runs.append((t, size))
            t += size
        assert list(zip(hypothesis.frames, hypothesis.durations)) == runs


def test_padding_does_not_change_a_row():
    torch.manual_seed(0)
    log_probs = torch.log_softmax(torch.randn(2, 60, 9), -1)
    lengths, counts = torch.tensor([60, 33]), torch.tensor([20, 7])
    targets = torch.randint(0, 8, (2, 20))
    _, together = ctc_align(log_probs, lengths, targets, counts)
    (alone,) = ctc_align(log_probs[1:, :33], lengths[1:], targets[1:, :7], counts[1:])
    assert (alone.frames, alone.durations) == (together.frames, together.durations)
    assert alone.confidences == pytest.approx(together.confidences)


def test_a_text_that_does_not_fit_is_refused():
    log_probs = torch.log_softmax(torch.randn(1, 4, 5), -1)
    with pytest.raises(OptionError, match="at least 5 frames"):
        ctc_align(log_probs, torch.tensor([4]), torch.tensor([[1, 1, 1]]), torch.tensor([3]))


def make(cls, config):
    torch.manual_seed(0)
    encoder = FastConformerConfig(n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=8)
    tokenizer = CharacterTokenizer(list(" abcdefghijklmnopqrstuvwxyz'"))
    return cls(config(vocab_size=tokenizer.vocab_size, encoder=encoder), tokenizer).eval()


@pytest.mark.parametrize("chunk", ["auto", "full", 5.0])
def test_words_of_a_recording_rise_and_keep_their_spelling(chunk):
    model = make(CTCModel, CTCModelConfig)
    noise = np.random.default_rng(0).standard_normal(16000 * 12).astype(np.float32)
    transcript = align(model, (noise, 16000), "hello there old friend", chunk=chunk)
    assert [word.text for word in transcript.words] == ["hello", "there", "old", "friend"]
    times = [time for word in transcript.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= transcript.duration == 12.0


def test_a_model_without_a_ctc_head_is_refused():
    model = make(TransducerModel, TransducerModelConfig)
    with pytest.raises(OptionError, match="CTC head"):
        align(model, (np.zeros(16000, np.float32), 16000), "hello")
