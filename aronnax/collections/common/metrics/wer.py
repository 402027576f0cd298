"""Word and character error rates by kind of error; counts of parts of a set add up to the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aronnax.collections.common.metrics.normaliser import normaliser
from aronnax.core.errors import MissingExtraError, OptionError


@dataclass(frozen=True)
class ErrorCounts:
    """Edit counts of hypotheses against references; adding two gives the counts of both sets together."""

    length: int = 0
    """Units (words or characters) in the references."""
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors per reference unit; 0 for nothing against nothing, infinite for words where none were."""
        if self.length:
            return self.errors / self.length
        return float("inf") if self.errors else 0.0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.length + other.length,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
        )

    def to_dict(self) -> dict[str, float | int | None]:
        """The counts in JSON types; an infinite rate is null."""
        return {
            "rate": self.rate if self.length or not self.errors else None,
            "length": self.length,
            "insertions": self.insertions,
            "deletions": self.deletions,
            "substitutions": self.substitutions,
        }

    def __str__(self) -> str:
        return (
            f"{100 * self.rate:.2f} % ({self.errors} of {self.length}: {self.insertions} insertions, "
            f"{self.deletions} deletions, {self.substitutions} substitutions)"
        )


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance: its texts as they were compared, and its errors in words and in characters."""

    id: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts

    def to_dict(self) -> dict[str, object]:
        """The row of a per-utterance file, in JSON types."""
        return {
            "id": self.id,
            "text": self.reference,
            "pred_text": self.hypothesis,
            "wer": self.words.to_dict(),
            "cer": self.characters.to_dict(),
        }


@dataclass(frozen=True)
class Score:
    """A whole set: the summed errors and one row an utterance."""

    words: ErrorCounts
    characters: ErrorCounts
    rows: tuple[UtteranceScore, ...]

    @property
    def wer(self) -> float:
        """Word error rate, a fraction."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate, a fraction."""
        return self.characters.rate


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    """Counts the fewest edits that turn the reference units into the hypothesis units.

    >>> count_errors("the cat sat".split(), "the cat sat down".split())
    ErrorCounts(length=3, insertions=1, deletions=0, substitutions=0)
    """
    try:
        from kaldialign import edit_distance
    except ImportError as error:
        raise MissingExtraError("kaldialign", "train", "counting word errors") from error
    edits = edit_distance(list(reference), list(hypothesis))
    return ErrorCounts(len(reference), int(edits["ins"]), int(edits["del"]), int(edits["sub"]))


def score_utterance(reference: str, hypothesis: str, id: str = "") -> UtteranceScore:
    """Scores one utterance; characters count the single spaces between words."""
    reference_words, hypothesis_words = reference.split(), hypothesis.split()
    return UtteranceScore(
        id,
        reference,
        hypothesis,
        count_errors(reference_words, hypothesis_words),
        count_errors(" ".join(reference_words), " ".join(hypothesis_words)),
    )


def score(
    references: Iterable[str],
    hypotheses: Iterable[str],
    *,
    ids: Iterable[str] | None = None,
    normalise: str = "none",
) -> Score:
    """Scores hypotheses against references, both normalised first (see `normaliser`).

    Raises OptionError when the numbers of texts differ or the normaliser is unknown.
    """
    references, hypotheses = list(references), list(hypotheses)
    names = list(ids) if ids is not None else [str(index) for index in range(len(references))]
    if not len(references) == len(hypotheses) == len(names):
        raise OptionError(
            f"{len(references)} references, {len(hypotheses)} hypotheses and {len(names)} ids: "
            "each utterance needs one of each"
        )
    clean = normaliser(normalise)
    rows = tuple(score_utterance(clean(r), clean(h), i) for r, h, i in zip(references, hypotheses, names))
    words = sum((row.words for row in rows), ErrorCounts())
    return Score(words, sum((row.characters for row in rows), ErrorCounts()), rows)
