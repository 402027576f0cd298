"""What recognised, translated and invented text is worth: error rates, BLEU and chrF, characters on non-speech."""

from aronnax.collections.common.metrics.hallucination import NonSpeech, non_speech
from aronnax.collections.common.metrics.multitask import GroupScore, MultitaskScore, Scored, score_multitask
from aronnax.collections.common.metrics.normaliser import NORMALISERS, normaliser
from aronnax.collections.common.metrics.translation import bleu, chrf
from aronnax.collections.common.metrics.wer import (
    ErrorCounts,
    Score,
    UtteranceScore,
    count_errors,
    score,
    score_utterance,
)

__all__ = [
    "NORMALISERS",
    "ErrorCounts",
    "GroupScore",
    "MultitaskScore",
    "NonSpeech",
    "Score",
    "Scored",
    "UtteranceScore",
    "bleu",
    "chrf",
    "count_errors",
    "non_speech",
    "normaliser",
    "score",
    "score_multitask",
    "score_utterance",
]
