"""Writes tests/parity/fixtures/aed_loss.npz with NeMo's SmoothedCrossEntropyLoss; run where NeMo is.

    python tests/parity/make/aed_loss.py

Random log-probabilities and ragged rows; with and without label smoothing, with padding found by its id and with the
mask that leaves the prompt out, as NeMo's training step makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.models.aed_multitask_models import lens_to_mask
from nemo.collections.common.losses.smoothed_cross_entropy import SmoothedCrossEntropyLoss

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "aed_loss.npz"
VOCABULARY, PAD = 23, 2
LENGTHS, PROMPTS = [9, 5, 12, 6], [4, 4, 5, 5]
SMOOTHING = [0.0, 0.1, 0.3]


def main() -> None:
    torch.manual_seed(0)
    lengths, prompts = torch.tensor(LENGTHS), torch.tensor(PROMPTS)
    longest = int(lengths.max())
    tokens = torch.randint(3, VOCABULARY, (len(LENGTHS), longest))
    tokens[torch.arange(longest) >= lengths[:, None]] = PAD
    logits = 3 * torch.randn(len(LENGTHS), longest - 1, VOCABULARY)
    log_probs = torch.log_softmax(logits, -1)
    labels = tokens[:, 1:]
    answer = lens_to_mask(lengths - 1, longest - 1) & ~lens_to_mask(prompts - 1, longest - 1)
    out = {
        "tokens": tokens.numpy(),
        "lengths": lengths.numpy(),
        "prompt_lengths": prompts.numpy(),
        "log_probs": log_probs.numpy(),
    }
    for smoothing in SMOOTHING:
        loss = SmoothedCrossEntropyLoss(pad_id=PAD, label_smoothing=smoothing)
        for name, mask in (("all", None), ("answer", answer)):
            inputs = log_probs.clone().requires_grad_()
            value = loss(log_probs=inputs, labels=labels, output_mask=mask)
            value.backward()
            out[f"{name}_{smoothing}/loss"] = value.detach().numpy()
            out[f"{name}_{smoothing}/gradient"] = inputs.grad.numpy()
    np.savez_compressed(FIXTURE, **out)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
