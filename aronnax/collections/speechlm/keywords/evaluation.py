"""Scoring lists of words in the prompt: are listed words found, are they found where nobody said them, and the rest?

Each recording is transcribed without a list and with lists of several lengths that hold the words said in it. What is
scored are the listed words: a hit is one that is said and written, a miss one said only, a false alarm one written
only. Without a list the words of the longest one are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aronnax.collections.common.data.manifest import ManifestEntry, read_manifest
from aronnax.collections.common.metrics import ErrorCounts, normaliser, score_utterance
from aronnax.collections.speechlm.keywords.lists import KeywordLists, occurrences, own_keywords
from aronnax.core.errors import ManifestError, OptionError

LENGTHS = (0, 10, 50, 100)
"""Lengths of lists unless others are asked for."""


class Boosted(Protocol):
    """A model that heeds words in its prompt."""

    def transcribe_iter(self, x: Any, *, keywords: Sequence[str] = (), **options: Any) -> Iterator[Any]:
        """Results with `index`, `transcript` and `error`, as they finish."""


@dataclass(frozen=True)
class KeywordScore:
    """What lists of one length did."""

    length: int
    """Words in a list; 0 is without one."""
    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    words: ErrorCounts = field(default_factory=ErrorCounts)
    """Of whole transcripts."""

    @property
    def recall(self) -> float:
        """Share of the listed words that are said which are written too; 1 where none is said."""
        said = self.hits + self.misses
        return self.hits / said if said else 1.0

    @property
    def precision(self) -> float:
        """Share of the listed words that are written which are said; 1 where none is written."""
        written = self.hits + self.false_alarms
        return self.hits / written if written else 1.0

    @property
    def f(self) -> float:
        """Harmonic mean of recall and precision."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The numbers in JSON types."""
        return {
            "length": self.length,
            "recall": self.recall,
            "precision": self.precision,
            "f": self.f,
            "hits": self.hits,
            "misses": self.misses,
            "false_alarms": self.false_alarms,
            "wer": self.words.to_dict(),
        }


@dataclass(frozen=True)
class KeywordEvaluation:
    """What lists of words came to on a manifest."""

    scores: tuple[KeywordScore, ...]
    """By rising length; the first is without a list."""
    utterances: int
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, with the reason; they are in no score."""

    def to_dict(self) -> dict[str, Any]:
        """The summary in JSON types."""
        return {
            "utterances": self.utterances,
            "failed": len(self.failed),
            "lists": [score.to_dict() for score in self.scores],
        }


def evaluate_keywords(
    model: Boosted,
    manifest: str | Path,
    vocabulary: Sequence[str] = (),
    *,
    lengths: Sequence[int] = LENGTHS,
    normalise: str = "none",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> KeywordEvaluation:
    """Transcribes every recording of a manifest that has a text, without a list and with one of each length.

    Args:
        model: Takes `keywords` when it transcribes.
        manifest: NeMo manifest.
        vocabulary: Words and phrases that lists are made of; without, those of the lines' `keywords`.
        lengths: How long lists are; 0, without one, is always among them. Words that are said are all listed.
        normalise: Of texts and words before they are compared: none, basic or whisper.
        seed: Of the other words in a list, and of their order.
        progress: Called with the number of transcripts that are done since the last call.
        options: Of the model's `transcribe_iter`.

    Raises:
        ManifestError: no line has a text.
        OptionError: there are no key words, or a length is below 0.
    """
    if any(length < 0 for length in lengths):
        raise OptionError(f"lengths of lists are {list(lengths)}; none may be below 0")
    entries = [entry for entry in read_manifest(manifest) if entry.text]
    if not entries:
        raise ManifestError(f"{manifest}: no entry has a text to compare with")
    words = vocabulary or [word for entry in entries for word in own_keywords(entry)]
    lists = KeywordLists(tuple(dict.fromkeys(words)), normaliser(normalise), seed)
    ordered = sorted({0, *lengths})
    run = _Run(model, entries, lists, options, progress)
    texts = {length: run.transcribe(length) for length in ordered}
    scores = tuple(run.score(length, texts[length], ordered[-1]) for length in ordered)
    return KeywordEvaluation(scores, len(entries) - len(run.failed), tuple(run.failed.items()))


class _Run:
    """One evaluation on its way."""

    def __init__(
        self,
        model: Boosted,
        entries: Sequence[ManifestEntry],
        lists: KeywordLists,
        options: Mapping[str, Any],
        progress: Callable[[int], object] | None,
    ) -> None:
        self.model, self.entries, self.lists = model, entries, lists
        self.options, self.progress = dict(options), progress
        self.failed: dict[str, str] = {}
        self._lists: dict[tuple[int, int], list[str]] = {}

    def transcribe(self, length: int) -> dict[int, str]:
        """Texts by the number of their entry; those with the same list are transcribed together."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for index in range(len(self.entries)):
            groups.setdefault(tuple(self._list(index, length)), []).append(index)
        texts: dict[int, str] = {}
        for listed, members in groups.items():
            asked = [_asked(self.entries[index]) for index in members]
            for result in self.model.transcribe_iter(asked, keywords=list(listed), **self.options):
                index = members[result.index]
                if result.transcript is None:
                    self.failed[_name(self.entries[index])] = str(result.error)
                else:
                    texts[index] = result.transcript.text
                if self.progress is not None:
                    self.progress(1)
        return texts

    def score(self, length: int, texts: Mapping[int, str], longest: int) -> KeywordScore:
        """What lists of one length did; without a list the words of the longest one count."""
        clean = self.lists.clean
        hits = misses = false_alarms = 0
        errors = ErrorCounts()
        for index, written in texts.items():
            entry = self.entries[index]
            if _name(entry) in self.failed:
                continue
            reference, hypothesis = clean(entry.text or ""), clean(written)
            errors += score_utterance(reference, hypothesis).words
            right, heard = reference.split(), hypothesis.split()
            for word in self._list(index, length or longest):
                phrase = self.lists.phrases[word]
                said, found = occurrences(right, phrase), occurrences(heard, phrase)
                hits += min(said, found)
                misses += max(0, said - found)
                false_alarms += max(0, found - said)
        return KeywordScore(length, hits, misses, false_alarms, errors)

    def _list(self, index: int, length: int) -> list[str]:
        if (index, length) not in self._lists:
            entry = self.entries[index]
            name = f"{_name(entry)} {entry.line}"
            self._lists[index, length] = self.lists.of(entry.text or "", length, name)
        return self._lists[index, length]


def _asked(entry: ManifestEntry) -> dict[str, Any]:
    """What `transcribe_iter` is given of an entry."""
    place = {"audio_filepath": entry.audio_filepath, "offset": entry.offset, "duration": entry.duration}
    return {**place, **({"lang": entry.language} if entry.language else {})}


def _name(entry: ManifestEntry) -> str:
    return f"{entry.audio_filepath}@{entry.offset:g}" if entry.offset else entry.audio_filepath
