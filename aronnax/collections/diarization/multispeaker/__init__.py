"""Multi-speaker recognition supervised by a diarizer: who says which word, written by one recogniser."""
