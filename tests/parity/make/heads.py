"""Writes tests/parity/fixtures/heads.npz with NeMo's own heads, losses and decoders; run where NeMo is installed.

    python tests/parity/make/heads.py

Everything is random, small and ragged. Transducers are decoded one row at a time: in NeMo 3.0.0 the durations stored
for a batch of several rows are wrong without CUDA graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss
from nemo.collections.asr.losses.rnnt_pytorch import TDTLossPytorch
from nemo.collections.asr.modules.conv_asr import ConvASRDecoder
from nemo.collections.asr.modules.rnnt import RNNTDecoder, RNNTJoint
from nemo.collections.asr.parts.submodules.ctc_greedy_decoding import GreedyBatchedCTCInfer
from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
    GreedyBatchedRNNTInfer,
    GreedyBatchedTDTInfer,
)
from nemo.core.classes.common import typecheck
from omegaconf import OmegaConf

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "heads.npz"
WIDTH, HIDDEN, JOINT, VOCABULARY, FRAMES = 16, 12, 14, 10, 24
LENGTHS = [24, 1, 17, 9]
MEASURES = {
    "tsallis": {"name": "entropy", "entropy_type": "tsallis", "alpha": 0.33, "entropy_norm": "exp"},
    "max_prob": {"name": "max_prob", "alpha": 0.33},
}
# name: durations, LSTM layers, activation, joint dropout, most symbols a frame, bias of the blank
TRANSDUCERS: dict[str, tuple[list[int], int, str, float, int, float]] = {
    "rnnt": ([], 1, "relu", 0.2, 10, 9.0),
    "rnnt_deep": ([], 2, "tanh", 0.0, 3, 2.0),
    "tdt": ([0, 1, 2, 3, 4], 1, "relu", 0.2, 10, 0.0),
    "tdt_two": ([0, 1, 2, 3, 4], 2, "relu", 0.2, 3, 4.0),
    "tdt_other": ([0, 2, 5], 1, "sigmoid", 0.0, 2, 0.0),
}


def randomised(module: torch.nn.Module, scale: float) -> torch.nn.Module:
    """The module with random weights large enough that its outputs differ from frame to frame."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, scale)
    return module.eval()


def store(out: dict[str, Any], prefix: str, module: torch.nn.Module) -> None:
    for name, value in module.state_dict().items():
        out[f"{prefix}/{name}"] = value.numpy()


def ctc(out: dict[str, Any]) -> None:
    """Log-probabilities, greedy classes and confidences of the CTC head."""
    decoder = randomised(
        ConvASRDecoder(WIDTH, VOCABULARY, vocabulary=[str(i) for i in range(VOCABULARY)]), 0.5
    )
    states = torch.randn(len(LENGTHS), FRAMES, WIDTH) * 2
    with torch.no_grad():
        log_probs = decoder(encoder_output=states.transpose(1, 2))
    store(out, "ctc/weights/decoder", decoder)
    out["ctc/states"], out["ctc/log_probs"] = states.numpy(), log_probs.numpy()
    lengths = torch.tensor(LENGTHS)
    for measure, config in MEASURES.items():
        infer = GreedyBatchedCTCInfer(
            blank_id=VOCABULARY,
            preserve_frame_confidence=True,
            confidence_method_cfg=OmegaConf.create(config),
        )
        (hypotheses,) = infer(decoder_output=log_probs, decoder_lengths=lengths)
        for row, hypothesis in enumerate(hypotheses):
            out[f"ctc/{row}/{measure}"] = np.asarray(hypothesis.frame_confidence, dtype=np.float32)
            out[f"ctc/{row}/classes"] = np.asarray(hypothesis.y_sequence[: LENGTHS[row]])
            out[f"ctc/{row}/score"] = np.float32(hypothesis.score)


def build(name: str) -> tuple[RNNTDecoder, RNNTJoint, list[int], int]:
    durations, layers, activation, dropout, max_symbols, blank = TRANSDUCERS[name]
    prednet = {"pred_hidden": HIDDEN, "pred_rnn_layers": layers, "dropout": 0.0}
    decoder = randomised(RNNTDecoder(prednet=prednet, vocab_size=VOCABULARY), 0.7)
    jointnet = {
        "encoder_hidden": WIDTH, "pred_hidden": HIDDEN, "joint_hidden": JOINT,
        "activation": activation, "dropout": dropout,
    }  # fmt: skip
    joint = RNNTJoint(
        jointnet=jointnet,
        num_classes=VOCABULARY,
        num_extra_outputs=len(durations),
        vocabulary=[str(i) for i in range(VOCABULARY)],
    )
    randomised(joint, 0.6)
    with torch.no_grad():
        decoder.prediction["embed"].weight[VOCABULARY] = 0
        joint.joint_net[-1].bias[VOCABULARY] += blank
    return decoder, joint, durations, max_symbols


def greedy(
    decoder: RNNTDecoder,
    joint: RNNTJoint,
    durations: list[int],
    max_symbols: int,
    measure: str,
    states: torch.Tensor,
) -> Any:
    """NeMo's hypothesis of one row [1, T, D]."""
    options: dict[str, Any] = {
        "decoder_model": decoder,
        "joint_model": joint,
        "blank_index": VOCABULARY,
        "max_symbols_per_step": max_symbols,
        "preserve_frame_confidence": True,
        "confidence_method_cfg": OmegaConf.create(MEASURES[measure]),
    }
    if durations:
        options |= {"durations": durations, "include_duration": True, "exclude_blank_from_confidence": True}
        infer: Any = GreedyBatchedTDTInfer(**options)
    else:
        infer = GreedyBatchedRNNTInfer(**options, exclude_blank_from_confidence=True)
    (hypotheses,) = infer(
        encoder_output=states.transpose(1, 2), encoded_lengths=torch.tensor([states.shape[1]])
    )
    return hypotheses[0]


def transducer(out: dict[str, Any], name: str) -> None:
    """Joint outputs and greedy results of one transducer."""
    decoder, joint, durations, max_symbols = build(name)
    store(out, f"{name}/weights/decoder", decoder)
    store(out, f"{name}/weights/joint", joint)
    states = torch.randn(len(LENGTHS), FRAMES, WIDTH) * 2
    targets = torch.randint(0, VOCABULARY, (len(LENGTHS), 5))
    out[f"{name}/states"], out[f"{name}/targets"] = states.numpy(), targets.numpy()
    with torch.no_grad():
        predicted, *_ = decoder(targets=targets, target_length=torch.full((len(LENGTHS),), 5))
        # On a CPU NeMo's joint normalises over tokens and durations together unless told not to.
        joint.set_fuse_loss_wer(False)
        joint.log_softmax = False
        scores = joint(encoder_outputs=states.transpose(1, 2), decoder_outputs=predicted)
        out[f"{name}/scores"] = scores[:, ::6].numpy()
        joint.log_softmax = None
        for row, length in enumerate(LENGTHS):
            for measure in MEASURES:
                hypothesis = greedy(
                    decoder, joint, durations, max_symbols, measure, states[row : row + 1, :length]
                )
                sureness = np.asarray(hypothesis.non_blank_frame_confidence, dtype=np.float32)
                out[f"{name}/{row}/{measure}"] = sureness
            out[f"{name}/{row}/tokens"] = np.asarray(hypothesis.y_sequence)
            out[f"{name}/{row}/frames"] = np.asarray(hypothesis.timestamp)
            if durations:
                out[f"{name}/{row}/durations"] = np.asarray(hypothesis.token_duration)


def losses(out: dict[str, Any]) -> None:
    """Values and gradients of NeMo's losses on the CPU, ragged, with an empty target and a single frame."""
    lengths, tokens = torch.tensor([12, 7, 1, 9]), torch.tensor([5, 4, 1, 0])
    targets = torch.randint(0, VOCABULARY, (4, 5))
    out["loss/lengths"], out["loss/tokens"], out["loss/targets"] = (
        lengths.numpy(),
        tokens.numpy(),
        targets.numpy(),
    )
    logits = torch.randn(4, 12, 6, VOCABULARY + 1) * 2
    out["loss/rnnt/logits"] = logits.numpy()
    for fastemit in (0.0, 0.01):
        leaf = logits.clone().requires_grad_()
        loss = RNNTLoss(
            VOCABULARY, reduction=None, loss_name="warprnnt_numba", loss_kwargs={"fastemit_lambda": fastemit}
        )
        value = loss(log_probs=leaf, targets=targets, input_lengths=lengths, target_lengths=tokens)
        value.sum().backward()
        out[f"loss/rnnt/{fastemit}/value"] = value.detach().numpy()
        out[f"loss/rnnt/{fastemit}/gradient"] = leaf.grad.numpy()
    # NeMo's plain TDT loss moves its tables to a GPU; here they stay where they are.
    torch.Tensor.cuda = lambda self, *_, **__: self
    for number, (durations, sigma) in enumerate(
        [([0, 1, 2, 3, 4], 0.0), ([0, 1, 2, 3, 4], 0.05), ([0, 1, 2], 0.3)]
    ):
        leaf = (torch.randn(4, 12, 6, VOCABULARY + 1 + len(durations)) * 2).requires_grad_()
        loss = TDTLossPytorch(blank=VOCABULARY, durations=durations, reduction=None, sigma=sigma)
        value = loss(acts=leaf, labels=targets, act_lens=lengths, label_lens=tokens)
        value.sum().backward()
        prefix = f"loss/tdt/{number}"
        out[f"{prefix}/durations"], out[f"{prefix}/sigma"] = np.asarray(durations), np.float64(sigma)
        out[f"{prefix}/logits"], out[f"{prefix}/value"] = leaf.detach().numpy(), value.detach().numpy()
        out[f"{prefix}/gradient"] = leaf.grad.numpy()


def main() -> None:
    torch.manual_seed(20)
    typecheck.set_typecheck_enabled(False)
    out: dict[str, Any] = {"lengths": np.asarray(LENGTHS)}
    ctc(out)
    for name in TRANSDUCERS:
        transducer(out, name)
    losses(out)
    np.savez_compressed(FIXTURE, **out)
    for name in TRANSDUCERS:
        counts = [len(out[f"{name}/{row}/tokens"]) for row in range(len(LENGTHS))]
        print(
            name, "tokens a row", counts, "confidences", [len(out[f"{name}/{r}/tsallis"]) for r in range(4)]
        )
    print(FIXTURE, FIXTURE.stat().st_size // 1024, "KB")


if __name__ == "__main__":
    main()
