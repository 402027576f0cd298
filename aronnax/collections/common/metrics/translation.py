"""BLEU and chrF of translations, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aronnax.core.errors import MissingExtraError, OptionError

# Languages written without spaces between words, which sacreBLEU's usual tokenizer would take for one word.
_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}


def bleu(references: Sequence[str], hypotheses: Sequence[str], language: str | None = None) -> float:
    """Corpus BLEU, 0 to 100; `language` is the one written. Raises OptionError for unequal or no texts."""
    _check(references, hypotheses)
    tokenize = _TOKENIZERS.get((language or "").split("-")[0], "13a")
    score = _sacrebleu().corpus_bleu(list(hypotheses), [list(references)], tokenize=tokenize)
    return float(score.score)


def chrf(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus chrF, 0 to 100. Raises OptionError for unequal or no texts."""
    _check(references, hypotheses)
    return float(_sacrebleu().corpus_chrf(list(hypotheses), [list(references)]).score)


def _check(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses) or not references:
        raise OptionError(
            f"{len(references)} references and {len(hypotheses)} hypotheses: each translation needs one of each"
        )


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "train", "scoring translations") from error
    return sacrebleu
