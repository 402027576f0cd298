"""Joining: the words of any recogniser with the speakers of any diarizer."""

from aronnax.collections.diarization.joining.join import LIMIT, join
from aronnax.collections.diarization.joining.transcribing import transcribe_speakers, transcribe_speakers_iter

__all__ = ["LIMIT", "join", "transcribe_speakers", "transcribe_speakers_iter"]
