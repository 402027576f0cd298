"""NeMo's side of the diarization benchmark; runs in NeMo's environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from protocol import serve

_model: Any = None


def build(archive: str, threads: int) -> None:
    """Restore the .nemo file `archive`."""
    global _model
    from nemo.collections.asr.models import SortformerEncLabelModel

    torch.set_num_threads(threads)
    _model = SortformerEncLabelModel.restore_from(archive, map_location="cpu").eval()
    # A streaming model hears the samples as they are, also at once; NeMo would scale them by the largest.
    _model.process_signal = lambda audio_signal, audio_signal_length: _model.preprocessor(
        input_signal=audio_signal, length=audio_signal_length
    )


@torch.inference_mode()
def diarize(signal: str, profile: dict[str, int] | None, output: str = "") -> dict[str, float]:
    """Hear the samples of the .npy file `signal`, all at once or with a streaming profile; the seconds it took."""
    samples = torch.from_numpy(np.load(signal))[None]
    _model.streaming_mode = profile is not None
    for name, value in (profile or {}).items():
        setattr(_model.sortformer_modules, name, value)
    start = time.perf_counter()
    found = _model(audio_signal=samples, audio_signal_length=torch.tensor([samples.shape[1]]))
    elapsed = time.perf_counter() - start
    if output:
        np.save(output, found[0].numpy())
    return {"seconds": elapsed}


if __name__ == "__main__":
    serve({"build": build, "diarize": diarize})
