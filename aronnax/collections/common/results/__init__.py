"""What models say, as typed values, and the files they are written to."""

from __future__ import annotations

from aronnax.collections.common.results.diarization import Diarization, Turn
from aronnax.collections.common.results.transcript import Segment, Transcript, Word
from aronnax.collections.common.results.writers import FORMATS, write

__all__ = ["FORMATS", "Diarization", "Segment", "Transcript", "Turn", "Word", "write"]
