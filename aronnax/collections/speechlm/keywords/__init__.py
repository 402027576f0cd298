"""What words in the prompt do: recall, precision and word errors with lists of growing length."""

from aronnax.collections.speechlm.keywords.evaluation import (
    KeywordEvaluation,
    KeywordScore,
    evaluate_keywords,
)
from aronnax.collections.speechlm.keywords.lists import KeywordLists, read_keywords

__all__ = ["KeywordEvaluation", "KeywordLists", "KeywordScore", "evaluate_keywords", "read_keywords"]
