"""Error rates of recognised text."""

from aronnax.collections.common.metrics.wer import (
    ErrorCounts,
    Score,
    UtteranceScore,
    count_errors,
    normaliser,
    score,
    score_utterance,
)

__all__ = ["ErrorCounts", "Score", "UtteranceScore", "count_errors", "normaliser", "score", "score_utterance"]
