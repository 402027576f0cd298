"""NeMo's side of the loss and decoding benchmarks; runs in NeMo's environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss
from nemo.collections.asr.losses.rnnt_pytorch import TDTLossPytorch
from nemo.collections.asr.modules.rnnt import RNNTDecoder, RNNTJoint
from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
    GreedyBatchedRNNTInfer,
    GreedyBatchedTDTInfer,
)
from nemo.core.classes.common import typecheck
from protocol import serve

_greedy: Any = None
_states: Any = None


def threads(number: int) -> None:
    """Use so many threads."""
    torch.set_num_threads(number)


def build(weights: str, states: str, durations: list[int], max_symbols: int) -> None:
    """Make decoder and joint with the tensors of the .npz file `weights`; keep the encoder states of `states`."""
    global _greedy, _states
    typecheck.set_typecheck_enabled(False)
    _states = torch.from_numpy(np.load(states))
    stored = {name: torch.from_numpy(value) for name, value in np.load(weights).items()}
    vocabulary, hidden = stored["decoder.prediction.embed.weight"].shape
    decoder = RNNTDecoder(prednet={"pred_hidden": hidden, "pred_rnn_layers": 1}, vocab_size=vocabulary - 1)
    joint_hidden, width = stored["joint.enc.weight"].shape
    joint = RNNTJoint(
        jointnet={
            "encoder_hidden": width, "pred_hidden": hidden, "joint_hidden": joint_hidden,
            "activation": "relu", "dropout": 0.2,
        },
        num_classes=vocabulary - 1,
        num_extra_outputs=len(durations),
    )  # fmt: skip
    for name, module in (("decoder", decoder), ("joint", joint)):
        module.load_state_dict({k[len(name) + 1 :]: v for k, v in stored.items() if k.startswith(name + ".")})
        module.eval()
    options: dict[str, Any] = {
        "decoder_model": decoder,
        "joint_model": joint,
        "blank_index": vocabulary - 1,
        "max_symbols_per_step": max_symbols,
    }
    if durations:
        _greedy = GreedyBatchedTDTInfer(**options, durations=durations, include_duration=True)
    else:
        _greedy = GreedyBatchedRNNTInfer(**options)


@torch.inference_mode()
def decode(batch: int) -> dict[str, Any]:
    """Decode the first `batch` rows at once; return seconds, tokens and frames."""
    states = _states[:batch].transpose(1, 2)
    lengths = torch.full((batch,), states.shape[2])
    start = time.perf_counter()
    (hypotheses,) = _greedy(encoder_output=states, encoded_lengths=lengths)
    elapsed = time.perf_counter() - start
    return {
        "seconds": elapsed,
        "tokens": [[int(token) for token in h.y_sequence] for h in hypotheses],
        "frames": [[int(frame) for frame in h.timestamp] for h in hypotheses],
    }


def loss(inputs: str, durations: list[int], sigma: float) -> dict[str, Any]:
    """Value and gradient of the loss for the scores, targets and lengths in the .npz file `inputs`."""
    typecheck.set_typecheck_enabled(False)
    stored = {name: torch.from_numpy(value) for name, value in np.load(inputs).items()}
    scores = stored["scores"].requires_grad_()
    targets, lengths, tokens = stored["targets"], stored["lengths"], stored["tokens"]
    blank = scores.shape[-1] - 1 - len(durations)
    if durations:
        # NeMo's plain TDT loss moves its tables to a GPU; here they stay where they are.
        torch.Tensor.cuda = lambda self, *_, **__: self
        tdt = TDTLossPytorch(blank=blank, durations=durations, reduction="mean_batch", sigma=sigma)
    else:
        rnnt = RNNTLoss(blank, reduction="mean_batch", loss_name="warprnnt_numba")
    start = time.perf_counter()
    if durations:
        value = tdt(acts=scores, labels=targets, act_lens=lengths, label_lens=tokens)
    else:
        value = rnnt(log_probs=scores, targets=targets, input_lengths=lengths, target_lengths=tokens)
    value.backward()
    return {"seconds": time.perf_counter() - start, "value": float(value.detach())}


if __name__ == "__main__":
    serve({"threads": threads, "build": build, "decode": decode, "loss": loss})
