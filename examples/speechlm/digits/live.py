"""Live transcription by a BESTOW model: word errors and lagging by how many blocks of speech are waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from voices import RATE

from aronnax.collections.common.metrics import score
from aronnax.collections.speechlm.bestow.model import BESTOW
from aronnax.collections.speechlm.bestow.waitk import WaitK

WAITS = (1, 2, 3, 4, None)
PUSH = RATE // 10


def lagging(model: BESTOW, strings: Sequence[tuple[np.ndarray, list[str]]]) -> dict[str, dict[str, Any]]:
    """Word errors and mean LAAL in seconds for each wait; `all` hears everything before it writes.

    Strings are pushed in pieces of 100 ms, and everything heard so far is encoded anew with each block.
    """
    found: dict[str, dict[str, Any]] = {}
    for k in WAITS:
        said, lags = [], []
        for audio, digits in strings:
            stream = model.stream(WaitK(k, model.config.stride), max_new_tokens=24)
            for start in range(0, len(audio), PUSH):
                stream.push(audio[start : start + PUSH])
            said.append(stream.finish().text)
            lag = stream.log.laal(" ".join(digits))
            lags.append(len(audio) / RATE if lag is None else lag)
        errors = score([" ".join(digits) for _, digits in strings], said).words
        found["all" if k is None else f"k={k}"] = {"wer": errors.rate, "laal": float(np.mean(lags))}
    return found
