"""Sessions of several speakers as one text with speaker tokens, and back; pure functions.

Speakers are numbered by their arrival, and a speaker's token stands before what they say:

- `word`: every word has its token, words in the order in which they begin. Overlapping speakers take turns word by
  word, so that a text follows the sound from left to right, as CTC and transducers need.
- `segment`: every utterance has one token, utterances in the order in which they begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from aronnax.collections.common.text import Tokenizer
from aronnax.core.errors import OptionError

Level = Literal["word", "segment"]


@dataclass(frozen=True)
class Utterance:
    """What one speaker says without a break: words, and the second at which each begins."""

    speaker: int
    words: tuple[str, ...]
    starts: tuple[float, ...]


class Run(NamedTuple):
    """Words behind one speaker token."""

    speaker: int
    words: tuple[str, ...]


class TokenRun(NamedTuple):
    """The tokens [start, stop) of a hypothesis that stand behind one speaker token."""

    speaker: int
    start: int
    stop: int


def runs_of(utterances: Sequence[Utterance], level: Level) -> list[Run]:
    """The session in the order in which it is written.

    >>> session = [Utterance(0, ("one", "two"), (0.0, 0.5)), Utterance(1, ("six",), (0.4,))]
    >>> [run.speaker for run in runs_of(session, "word")], [run.speaker for run in runs_of(session, "segment")]
    ([0, 1, 0], [0, 1])
    """
    said = [utterance for utterance in utterances if utterance.words]
    if level == "segment":
        said.sort(key=lambda utterance: utterance.starts[0])
        return [Run(utterance.speaker, utterance.words) for utterance in said]
    words = [
        (start, utterance.speaker, word)
        for utterance in said
        for start, word in zip(utterance.starts, utterance.words)
    ]
    words.sort(key=lambda item: item[0])
    return [Run(speaker, (word,)) for _, speaker, word in words]


def serialise(runs: Sequence[Run], token: str) -> str:
    """The text of a session; `token` is a speaker's token with `{}` for the number.

    Raises OptionError for a word that holds a blank or looks like a speaker token itself.

    >>> serialise([Run(0, ("one",)), Run(1, ("six", "two"))], "<|spltoken{}|>")
    '<|spltoken0|> one <|spltoken1|> six two'
    """
    pattern = _pattern(token)
    for run in runs:
        for word in run.words:
            if not word or word.split() != [word] or pattern.search(word):
                raise OptionError(
                    f"{word!r} cannot be a word of a session: it is empty, or holds a blank or a token"
                )
    return " ".join(" ".join([token.format(run.speaker), *run.words]) for run in runs)


def deserialise(text: str, token: str) -> list[Run]:
    """The runs of a text; words before any token belong to the first speaker, tokens without words are left out.

    >>> deserialise("<|spltoken0|> one <|spltoken1|> six two", "<|spltoken{}|>")
    [Run(speaker=0, words=('one',)), Run(speaker=1, words=('six', 'two'))]
    """
    head, *rest = _pattern(token).split(text)
    found = [Run(0, tuple(head.split()))]
    found += [Run(int(number), tuple(said.split())) for number, said in zip(rest[::2], rest[1::2])]
    return [run for run in found if run.words]


def by_speaker(runs: Sequence[Run]) -> list[Run]:
    """The runs with those of one speaker that follow each other joined."""
    return [
        Run(speaker, tuple(word for run in group for word in run.words))
        for speaker, group in groupby(runs, key=lambda run: run.speaker)
    ]


def encode(
    runs: Sequence[Run], tokenizer: Tokenizer, ids: Sequence[int], language: str | None = None
) -> list[int]:
    """Token ids of a session; `ids` are those of the speaker tokens, by number."""
    tokens: list[int] = []
    for run in runs:
        tokens.append(ids[run.speaker])
        tokens.extend(tokenizer.encode(" ".join(run.words), language))
    return tokens


def token_runs(tokens: Sequence[int], speakers: Mapping[int, int]) -> list[TokenRun]:
    """Where in `tokens` who speaks, speaker tokens left out; `speakers` gives the number of each token's id.

    As in a text, tokens before any speaker token belong to the first speaker.
    """
    found, speaker, start = [], 0, 0
    for place, token in enumerate([*tokens, None]):
        if token is None or token in speakers:
            if place > start:
                found.append(TokenRun(speaker, start, place))
            start = place + 1
            if token is not None:
                speaker = speakers[token]
    return found


def _pattern(token: str) -> re.Pattern[str]:
    return re.compile(re.escape(token).replace(re.escape("{}"), r"(\d+)"))
