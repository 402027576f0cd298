"""Write the features fixtures: NeMo's own log-mel front end on ragged noise and tones.

Run in NeMo's environment: python tests/parity/make/features.py [OUT_FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

# Each case: the arguments NeMo is built with. Together they cover what the public checkpoints set.
CASES: dict[str, dict[str, object]] = {
    "asr_80": {},
    "asr_128": {"features": 128},
    "sortformer": {"features": 80, "normalize": "NA"},
    "sortformer_128": {"features": 128, "normalize": "NA", "pad_to": 16},
    "titanet": {"features": 80, "pad_to": 16},
    "vad_64": {"features": 64, "normalize": "NA"},
    "all_features": {"normalize": "all_features"},
    "clamp": {"log_zero_guard_type": "clamp", "log_zero_guard_value": 1e-5, "normalize": "NA"},
    "magnitude": {"mag_power": 1.0, "normalize": "NA"},
    "no_preemphasis": {"preemph": None},
    "hamming_20ms": {"window": "hamming", "window_size": 0.02},
    "narrow_8k": {"sample_rate": 8000, "n_fft": 256, "features": 40, "lowfreq": 60, "highfreq": 3800},
    "wide_window": {"window_size": 0.04, "n_fft": 1024, "window_stride": 0.02},
}
LENGTHS = (3200, 1601, 400, 799)


def ragged_signal() -> tuple[np.ndarray, np.ndarray]:
    """Return a seeded [B, S] batch of noise over tones, silent beyond each row's length, and the lengths."""
    generator = np.random.default_rng(20)
    signal = np.zeros((len(LENGTHS), max(LENGTHS)), dtype=np.float32)
    for row, length in enumerate(LENGTHS):
        tone = 0.3 * np.sin(2 * np.pi * 300.0 * (row + 1) * np.arange(length) / 16000)
        signal[row, :length] = tone + 0.05 * generator.standard_normal(length)
    return signal, np.array(LENGTHS)


def nemo_features(
    settings: dict[str, object], signal: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    """Return NeMo's features [B, T, F], their lengths and its stored filterbank for one case."""
    defaults = {"features": 80, "window_size": 0.025, "normalize": "per_feature", "n_fft": 512, "pad_to": 0}
    front_end = AudioToMelSpectrogramPreprocessor(**{**defaults, **settings}).eval()
    with torch.no_grad():
        features, frames = front_end(
            input_signal=torch.from_numpy(signal), length=torch.from_numpy(lengths.astype(np.int64))
        )
    return {
        "settings": np.array(json.dumps({**defaults, **settings})),
        "features": features.transpose(1, 2).numpy(),
        "frames": frames.numpy(),
        "fb_sum": front_end.featurizer.fb[0].sum(1).numpy(),
        "window": front_end.featurizer.window.numpy(),
    }


def main(folder: Path) -> None:
    """Write one npz with the signal and every case's arrays as `<case>/<array>`."""
    signal, lengths = ragged_signal()
    arrays = {"signal": signal, "lengths": lengths}
    for name, settings in CASES.items():
        for key, value in nemo_features(settings, signal, lengths).items():
            arrays[f"{name}/{key}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "features.npz", **arrays)
    print(f"wrote {folder / 'features.npz'}: {len(CASES)} cases")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures")
