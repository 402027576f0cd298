"""Lists of words for each recording: those that are said in it, filled up with others to a length."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aronnax.collections.common.data.manifest import ManifestEntry
from aronnax.core.errors import ManifestError, OptionError


def read_keywords(path: str | Path) -> list[str]:
    """The words and phrases of a file, one a line, each once; blank lines and those that begin with # do not count.

    Raises:
        ManifestError: the file is missing or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: the key words cannot be read: {error.strerror}") from None
    found = [line.strip() for line in lines]
    words = list(dict.fromkeys(word for word in found if word and not word.startswith("#")))
    if not words:
        raise ManifestError(f"{path}: there is no key word in it; write one a line")
    return words


def own_keywords(entry: ManifestEntry) -> list[str]:
    """The field `keywords` of a manifest's line: a list, or a text with commas."""
    given = entry.extra.get("keywords") or []
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ManifestError(
            f"line {entry.line}: keywords is {given!r}; it must be a list of words, or a text with commas"
        )
    return [word.strip() for word in words if word.strip()]


def occurrences(words: Sequence[str], phrase: Sequence[str]) -> int:
    """How often a phrase occurs among words, without overlap.

    >>> occurrences("to be or not to be".split(), ["to", "be"])
    2
    """
    count, place = 0, 0
    if not phrase or phrase[0] not in words:
        return 0
    while place + len(phrase) <= len(words):
        if list(words[place : place + len(phrase)]) == list(phrase):
            count, place = count + 1, place + len(phrase)
        else:
            place += 1
    return count


@dataclass(frozen=True)
class KeywordLists:
    """Lists of any length for recordings; a longer one holds all of a shorter one."""

    vocabulary: tuple[str, ...]
    """All words and phrases there are."""
    clean: Callable[[str], str]
    """Normalises texts and words before they are compared."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.vocabulary:
            raise OptionError(
                "there are no key words: give a file of them, or `keywords` in the manifest's lines"
            )

    @cached_property
    def phrases(self) -> dict[str, list[str]]:
        """What is compared of each word or phrase of the vocabulary."""
        return {word: self.clean(word).split() for word in self.vocabulary}

    def said(self, text: str) -> list[str]:
        """The words of the vocabulary that a text has."""
        words = self.clean(text).split()
        return [word for word, phrase in self.phrases.items() if occurrences(words, phrase)]

    def of(self, text: str, length: int, name: str) -> list[str]:
        """So many words for the recording `name` of this text, in any order; all that are said, and others."""
        if length == 0:
            return []
        said = self.said(text)
        others = [word for word in self.vocabulary if word not in said]
        random.Random(f"{self.seed} {name} others").shuffle(others)
        listed = said + others[: max(0, length - len(said))]
        random.Random(f"{self.seed} {name} order {length}").shuffle(listed)
        return listed
