"""Scores of a set that mixes languages, transcription, translation, and recordings without speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aronnax.collections.common.metrics.hallucination import NonSpeech, non_speech
from aronnax.collections.common.metrics.normaliser import normaliser
from aronnax.collections.common.metrics.translation import bleu, chrf
from aronnax.collections.common.metrics.wer import ErrorCounts, Score, UtteranceScore, score_utterance


@dataclass(frozen=True)
class Scored:
    """One utterance before scoring; an empty reference says that there is no speech."""

    reference: str
    hypothesis: str
    seconds: float = 0.0
    source: str | None = None
    """Language spoken."""
    target: str | None = None
    """Language written; the one spoken where it is None."""
    id: str = ""

    @property
    def translated(self) -> bool:
        """Whether another language was to be written than was spoken."""
        return self.source is not None and self.target not in (None, self.source)

    @property
    def speech(self) -> bool:
        """Whether there is something to write."""
        return bool(self.reference.strip())

    @property
    def group(self) -> str:
        """`en` for a transcription, `en-de` for a translation, `` where no language is known."""
        language = self.target or self.source or ""
        return f"{self.source}-{self.target}" if self.translated else language


@dataclass(frozen=True)
class GroupScore:
    """One language or language pair."""

    name: str
    translated: bool
    utterances: int
    words: ErrorCounts
    characters: ErrorCounts
    bleu: float | None = None
    """0 to 100; of translations only, of the texts as they are."""
    chrf: float | None = None

    def to_dict(self) -> dict[str, object]:
        """The scores in JSON types."""
        return {
            "utterances": self.utterances,
            "wer": self.words.to_dict(),
            "cer": self.characters.to_dict(),
            "bleu": self.bleu,
            "chrf": self.chrf,
        }


@dataclass(frozen=True)
class MultitaskScore:
    """A whole set."""

    score: Score
    """Word and character errors of all utterances with speech, and a row for each."""
    groups: tuple[GroupScore, ...]
    non_speech: NonSpeech
    silence_rows: tuple[UtteranceScore, ...] = ()
    """A row for each recording without speech."""

    @property
    def transcriptions(self) -> ErrorCounts:
        """Word errors of the transcriptions, or of everything where there are only translations."""
        found = [group.words for group in self.groups if not group.translated]
        return sum(found, ErrorCounts()) if found else self.score.words

    def metrics(self) -> dict[str, float]:
        """The numbers by name: `wer`, `wer_all`, `wer/en`, `bleu/en-de`, ..., `characters_per_minute`."""
        found: dict[str, float] = {}
        if self.groups:
            found |= {"wer": self.transcriptions.rate, "wer_all": self.score.wer}
        if len(self.groups) > 1 or any(group.translated for group in self.groups):
            for group in self.groups:
                found[f"wer/{group.name or 'other'}"] = group.words.rate
        pairs = [group for group in self.groups if group.bleu is not None and group.chrf is not None]
        for group in pairs:
            found[f"bleu/{group.name}"] = group.bleu or 0.0
            found[f"chrf/{group.name}"] = group.chrf or 0.0
        if pairs:
            found["bleu"] = sum(group.bleu or 0.0 for group in pairs) / len(pairs)
            found["chrf"] = sum(group.chrf or 0.0 for group in pairs) / len(pairs)
        if self.non_speech.recordings:
            found["characters_per_minute"] = self.non_speech.rate
        return found


def score_multitask(rows: Sequence[Scored], normalise: str = "none") -> MultitaskScore:
    """Scores a set by language and task; word errors after normalisation, BLEU and chrF on the texts as they are.

    Raises OptionError for an unknown normaliser, MissingExtraError for a library that is not installed.
    """
    scored = [_score(row, normalise) for row in rows]
    spoken = [(row, found) for row, found in zip(rows, scored) if row.speech]
    groups = []
    for name in sorted({row.group for row, _ in spoken}):
        members = [(row, found) for row, found in spoken if row.group == name]
        groups.append(_group(name, members))
    quiet = [(row.hypothesis, row.seconds) for row in rows if not row.speech]
    found_rows = tuple(found for _, found in spoken)
    words = sum((row.words for row in found_rows), ErrorCounts())
    characters = sum((row.characters for row in found_rows), ErrorCounts())
    silent = tuple(found for row, found in zip(rows, scored) if not row.speech)
    return MultitaskScore(Score(words, characters, found_rows), tuple(groups), non_speech(quiet), silent)


def _score(row: Scored, normalise: str) -> UtteranceScore:
    clean = normaliser(normalise, row.target or row.source)
    return score_utterance(clean(row.reference), clean(row.hypothesis), row.id)


def _group(name: str, members: Sequence[tuple[Scored, UtteranceScore]]) -> GroupScore:
    first = members[0][0]
    references = [row.reference for row, _ in members]
    hypotheses = [row.hypothesis for row, _ in members]
    return GroupScore(
        name,
        first.translated,
        len(members),
        sum((found.words for _, found in members), ErrorCounts()),
        sum((found.characters for _, found in members), ErrorCounts()),
        bleu(references, hypotheses, first.target) if first.translated else None,
        chrf(references, hypotheses) if first.translated else None,
    )
