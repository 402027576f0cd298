"""Writes NeMo 3.0.0's targets and losses on random cases, and its turns from random probabilities.

python tests/parity/make/sortformer_losses.py tests/parity/fixtures/sortformer
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

CASES, FRAMES, SPEAKERS = 1000, 24, 4
TRACKS, TRACK_FRAMES = 40, 300
PARAMETERS = ("onset", "offset", "pad_onset", "pad_offset", "min_duration_on", "min_duration_off")
PRESETS = {
    "none": (0.5, 0.5, 0.0, 0.0, 0.0, 0.0),
    "dihard3-v1": (0.64, 0.74, 0.06, 0.0, 0.1, 0.15),
    "callhome-v1": (0.53, 0.49, 0.23, 0.01, 0.42, 0.34),
    "dihard3-v2": (0.56, 1.0, 0.063, 0.002, 0.007, 0.151),
    "callhome-v2": (0.641, 0.561, 0.229, 0.079, 0.511, 0.296),
}


def cases() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels [C, T, N] of bursts (with ties, overlaps and absent speakers), probabilities and lengths [C]."""
    generator = np.random.default_rng(3)
    labels = np.zeros((CASES, FRAMES, SPEAKERS), dtype=np.float32)
    lengths = generator.integers(6, FRAMES + 1, CASES)
    for case, length in zip(labels, lengths):
        for speaker in range(SPEAKERS):
            for _ in range(generator.integers(0, 3)):
                start = (
                    generator.integers(0, 5) if generator.random() < 0.4 else generator.integers(0, length)
                )
                case[start : min(start + generator.integers(1, 9), length), speaker] = 1.0
    probabilities = generator.uniform(0.001, 0.999, labels.shape).astype(np.float32)
    return torch.from_numpy(labels), torch.from_numpy(probabilities), torch.from_numpy(lengths)


def tracks() -> torch.Tensor:
    """Random smooth probabilities of one speaker [N, T], some of them noisy, some of them loud to the end.

    All begin quietly: padding cuts several early starts to 0, and NeMo orders equal starts by a sort that is not
    stable, so that its answer there depends on the processor.
    """
    generator = np.random.default_rng(4)
    noise = generator.standard_normal((TRACKS, TRACK_FRAMES + 8))
    smooth = np.stack([np.convolve(row, np.ones(9) / 3, "valid") for row in noise])
    smooth[::2] += 0.7 * generator.standard_normal(smooth[::2].shape)
    smooth[::5, -7:] += 4.0
    smooth[:, :2] = -8.0
    return torch.from_numpy((1 / (1 + np.exp(-1.5 * smooth))).astype(np.float32))


def main(folder: Path) -> None:
    from nemo.collections.asr.losses.bce_loss import BCELoss
    from nemo.collections.asr.parts.utils.asr_multispeaker_utils import get_ats_targets, get_pil_targets
    from nemo.collections.asr.parts.utils.vad_utils import ts_vad_post_processing

    labels, probabilities, lengths = cases()
    orders = torch.tensor(list(permutations(range(SPEAKERS))))
    sort = get_ats_targets(labels.clone(), probabilities, speaker_permutations=orders)
    pil = get_pil_targets(labels.clone(), probabilities, speaker_permutations=orders)
    loss = BCELoss(weight=None, reduction="mean")
    found = {"sort": np.packbits(sort.numpy().astype(bool)), "pil": np.packbits(pil.numpy().astype(bool))}
    for name, targets in (("sort_loss", sort), ("pil_loss", pil)):
        found[name] = np.array(
            [
                float(loss(probs=p[None], labels=t[None], target_lens=n[None]))
                for p, t, n in zip(probabilities, targets, lengths)
            ]
        )
        found[f"{name}_together"] = np.array(
            float(loss(probs=probabilities, labels=targets, target_lens=lengths))
        )
    for preset, values in PRESETS.items():
        turns = []
        for number, track in enumerate(tracks()):
            options = dict(zip(PARAMETERS, map(float, values)))
            got = ts_vad_post_processing(track, options, unit_10ms_frame_count=8).reshape(-1, 2).numpy()
            turns.append(np.concatenate([np.full((len(got), 1), number, np.float32), got], 1))
        found[f"turns-{preset}"] = np.concatenate(turns)
    np.savez_compressed(folder / "losses.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
