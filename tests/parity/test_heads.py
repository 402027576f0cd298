"""Heads, losses and greedy decoding against NeMo 3.0.0 (fixtures/heads.npz); numbers 1e-4, tokens and times equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.asr.ctc.decoding import ctc_greedy
from aronnax.collections.asr.ctc.head import CTCHead
from aronnax.collections.asr.transducer.decoding import TransducerDecoder
from aronnax.collections.asr.transducer.joint import Joint, JointConfig
from aronnax.collections.asr.transducer.loss import rnnt_loss, tdt_loss
from aronnax.collections.asr.transducer.prediction import PredictionConfig, PredictionNetwork
from aronnax.collections.common.nn.confidence import confidence

FIXTURE = np.load(Path(__file__).resolve().parent / "fixtures" / "heads.npz")
LENGTHS = torch.from_numpy(FIXTURE["lengths"])
VOCABULARY, WIDTH, HIDDEN, JOINT = 10, 16, 12, 14
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
# name: durations, LSTM layers, activation, joint dropout, most symbols a frame; as in make/heads.py
TRANSDUCERS = {
    "rnnt": ((), 1, "relu", 0.2, 10),
    "rnnt_deep": ((), 2, "tanh", 0.0, 3),
    "tdt": ((0, 1, 2, 3, 4), 1, "relu", 0.2, 10),
    "tdt_two": ((0, 1, 2, 3, 4), 2, "relu", 0.2, 3),
    "tdt_other": ((0, 2, 5), 1, "sigmoid", 0.0, 2),
}


def tensor(name):
    return torch.from_numpy(FIXTURE[name])


def load(module, prefix):
    names = [name for name in FIXTURE.files if name.startswith(f"{prefix}/")]
    module.load_state_dict({name[len(prefix) + 1 :]: tensor(name) for name in names})
    return module.eval()


def build(name):
    durations, layers, activation, dropout, max_symbols = TRANSDUCERS[name]
    network = PredictionNetwork(PredictionConfig(hidden=HIDDEN, layers=layers, dropout=0.0), VOCABULARY)
    joint = Joint(JointConfig(JOINT, dropout, activation), WIDTH, HIDDEN, VOCABULARY, len(durations))
    load(network, f"{name}/weights/decoder")
    load(joint, f"{name}/weights/joint")
    return network, joint, durations, max_symbols


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_ctc_log_probabilities_and_greedy_tokens():
    head = load(CTCHead(WIDTH, VOCABULARY), "ctc/weights/decoder")
    log_probs = head(tensor("ctc/states"))
    torch.testing.assert_close(log_probs, tensor("ctc/log_probs"), **TOLERANCE)
    hypotheses, _ = ctc_greedy(log_probs, LENGTHS)
    for row, hypothesis in enumerate(hypotheses):
        classes = FIXTURE[f"ctc/{row}/classes"].tolist()
        starts = [
            frame
            for frame, token in enumerate(classes)
            if token != VOCABULARY and (frame == 0 or token != classes[frame - 1])
        ]
        assert hypothesis.frames == starts
        assert hypothesis.tokens == [classes[frame] for frame in starts]
        assert hypothesis.score == pytest.approx(float(FIXTURE[f"ctc/{row}/score"]), abs=1e-3)


@pytest.mark.parametrize("measure", ["tsallis", "max_prob"])
def test_ctc_frame_confidence(measure):
    found = confidence(tensor("ctc/log_probs"), measure)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(found[row, :length], tensor(f"ctc/{row}/{measure}")[:length], **TOLERANCE)


@pytest.mark.parametrize("name", TRANSDUCERS)
def test_joint_outputs(name):
    network, joint, _, _ = build(name)
    scores = joint(tensor(f"{name}/states"), network(tensor(f"{name}/targets")))
    torch.testing.assert_close(scores[:, ::6], tensor(f"{name}/scores"), **TOLERANCE)


@pytest.mark.parametrize("measure", ["tsallis", "max_prob"])
@pytest.mark.parametrize("name", TRANSDUCERS)
def test_greedy_tokens_frames_durations_and_confidences(name, measure):
    network, joint, durations, max_symbols = build(name)
    decoder = TransducerDecoder(network, joint, durations, max_symbols)
    hypotheses, _ = decoder(tensor(f"{name}/states"), LENGTHS, confidence=measure)
    for row, hypothesis in enumerate(hypotheses):
        assert hypothesis.tokens == FIXTURE[f"{name}/{row}/tokens"].tolist()
        assert hypothesis.frames == FIXTURE[f"{name}/{row}/frames"].tolist()
        if durations:
            assert hypothesis.durations == FIXTURE[f"{name}/{row}/durations"].tolist()
        truth = FIXTURE[f"{name}/{row}/{measure}"].tolist()
        assert hypothesis.confidences == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("fastemit", [0.0, 0.01])
def test_rnnt_loss_and_gradient(fastemit):
    with torch.enable_grad():
        logits = tensor("loss/rnnt/logits").requires_grad_()
        value = rnnt_loss(logits, *_targets(), fastemit=fastemit, reduction="none")
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(value, tensor(f"loss/rnnt/{fastemit}/value"), **TOLERANCE)
    torch.testing.assert_close(gradient, tensor(f"loss/rnnt/{fastemit}/gradient"), **TOLERANCE)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_tdt_loss_and_gradient(case):
    prefix = f"loss/tdt/{case}"
    durations = tuple(FIXTURE[f"{prefix}/durations"].tolist())
    with torch.enable_grad():
        logits = tensor(f"{prefix}/logits").requires_grad_()
        value = tdt_loss(
            logits,
            *_targets(),
            durations=durations,
            sigma=float(FIXTURE[f"{prefix}/sigma"]),
            reduction="none",
        )
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(value, tensor(f"{prefix}/value"), **TOLERANCE)
    torch.testing.assert_close(gradient, tensor(f"{prefix}/gradient"), **TOLERANCE)


def _targets():
    return tensor("loss/targets"), tensor("loss/lengths"), tensor("loss/tokens")
