"""NeMo's side of the diarization benchmark; runs in NeMo's environment."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch
from protocol import serve

_model: Any = None
_run: Run | None = None


class Run:
    """One call of the model, NeMo's own loop, halted before each of its streaming steps until the next is asked for.

    Times are of the processor and of the wall, from one halt to the next; the loop around the steps counts.
    """

    def __init__(self, samples: torch.Tensor, threads: int) -> None:
        self.samples, self.threads = samples, threads
        self.go, self.halted = threading.Semaphore(0), threading.Semaphore(0)
        self.frames, self.error, self.done = None, None, False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        self.halted.acquire()

    def advance(self) -> tuple[float, float]:
        """To the next halt or the end: processor and wall seconds."""
        processor, wall = time.process_time(), time.perf_counter()
        self.go.release()
        self.halted.acquire()
        spent = time.process_time() - processor, time.perf_counter() - wall
        if self.error is not None:
            raise self.error
        return spent

    def _halt(self) -> None:
        self.halted.release()
        self.go.acquire()

    def _work(self) -> None:
        torch.set_num_threads(self.threads)
        step = _model.__class__.forward_streaming_step

        def halting(*args: Any, **options: Any) -> Any:
            self._halt()
            return step(_model, *args, **options)

        _model.forward_streaming_step = halting
        self._halt()
        try:
            with torch.inference_mode():
                length = torch.tensor([self.samples.shape[1]])
                self.frames = _model(audio_signal=self.samples, audio_signal_length=length)[0].numpy()
        except Exception as error:  # told to whoever asks for the next step
            self.error = error
        self.done = True
        self.halted.release()


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


def begin(signal: str, profile: dict[str, int] | None, threads: int) -> None:
    """Make ready to hear the samples of the .npy file `signal`, all at once or with a streaming profile."""
    global _run
    _model.streaming_mode = profile is not None
    for name, value in (profile or {}).items():
        setattr(_model.sortformer_modules, name, value)
    _run = Run(torch.from_numpy(np.load(signal))[None], threads)


def advance(output: str) -> dict[str, Any]:
    """Hear one streaming step more, or everything; at the end the probabilities go to the .npy file `output`."""
    assert _run is not None
    processor, wall = _run.advance()
    if _run.done:
        np.save(output, _run.frames)
    return {"processor": processor, "wall": wall, "done": _run.done}


@torch.inference_mode()
def encode(frames: str) -> dict[str, float]:
    """Probabilities of the frames [1, T, D] in the .npy file `frames`, which stand behind the subsampling."""
    given = torch.from_numpy(np.load(frames))
    processor, wall = time.process_time(), time.perf_counter()
    states, lengths = _model.frontend_encoder(given, torch.tensor([given.shape[1]]), bypass_pre_encode=True)
    _model.forward_infer(states, lengths)
    return {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}


if __name__ == "__main__":
    serve({"build": build, "begin": begin, "advance": advance, "encode": encode})
