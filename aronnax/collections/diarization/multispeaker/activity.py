"""Who speaks in each frame, from whatever says so: a diarization's probabilities, or its turns.

`T` frames, `N` speakers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aronnax.collections.common.results import Diarization
from aronnax.collections.diarization.batch import activity
from aronnax.core.errors import OptionError

ACTIVE = 0.5
"""A speaker beyond the model's is worth a note from this probability on."""


def frame_activity(
    found: Diarization, samples: int, sample_rate: int, samples_per_frame: int, speakers: int
) -> np.ndarray:
    """A diarization as float32 [T, N] for a recording of so many samples; N = `speakers`, in the order of arrival.

    Probabilities are taken as they are, the first N columns. From turns alone, a speaker is active in a frame who
    speaks during half of it. Raises OptionError for another frame rate, or for turns of more than N speakers.
    """
    if found.probabilities is None:
        if len(found.speakers) > speakers:
            raise OptionError(
                f"the diarization names {len(found.speakers)} speakers, and the model writes at most {speakers}"
            )
        turns: Any = found.turns
        return activity(turns, samples, sample_rate, samples_per_frame, speakers)[0]
    seconds = samples_per_frame / sample_rate
    if found.frame_seconds is None or abs(found.frame_seconds - seconds) > 1e-9:
        raise OptionError(
            f"the diarization has a frame every {found.frame_seconds} s, and the recogniser every {seconds} s:"
            " diarize with a model of the same frame rate, or give its turns alone"
        )
    probabilities = found.probabilities[:, :speakers].astype(np.float32)
    return np.pad(probabilities, ((0, 0), (0, speakers - probabilities.shape[1])))


def crowded(found: Diarization, speakers: int) -> list[str]:
    """A note where the diarizer heard more speakers than the model writes."""
    if found.probabilities is None or found.probabilities.shape[1] <= speakers:
        return []
    heard = int((found.probabilities > ACTIVE).any(0).sum())
    return (
        [f"the diarizer hears {heard} speakers, and the model writes {speakers}"] if heard > speakers else []
    )
