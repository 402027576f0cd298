"""From tokens with frames to words and segments with times.

Times are counted in whole samples to the very end and divided by the sample rate once, so they cannot drift.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from aronnax.collections.common.results import Segment, Word

if TYPE_CHECKING:
    from aronnax.collections.asr.hypothesis import Hypothesis
    from aronnax.collections.common.text import Tokenizer

SENTENCE_ENDS = frozenset(".?!。？！")
"""A word that ends with one of these ends its segment."""

SEGMENT_GAP = 1.0
"""A silence of this many seconds or more between two words starts a new segment."""


@dataclass(frozen=True)
class Clock:
    """How the frames of one piece of a recording become seconds of the whole.

    The piece's frame 0 lies at sample `offset` of the recording, and nothing in it ends after sample `stop`.
    """

    samples_per_frame: int
    sample_rate: int
    offset: int
    stop: int

    def sample(self, frame: int) -> int:
        """The sample at which a frame of the piece begins, inside the recording."""
        return min(max(self.offset + frame * self.samples_per_frame, 0), self.stop)


@dataclass(frozen=True)
class _Token:
    """A token with the samples it covers and whether it is seen, and said, at all."""

    token: int
    start: int
    end: int
    confidence: float | None
    visible: bool
    punctuation: bool


@dataclass
class _Group:
    """The tokens of one word."""

    tokens: list[_Token]
    text: str = ""

    @property
    def ids(self) -> list[int]:
        return [token.token for token in self.tokens]

    @property
    def said(self) -> list[_Token]:
        """Tokens that take time: all that is not punctuation, or everything visible in a lone sign."""
        visible = [token for token in self.tokens if token.visible] or self.tokens
        return [token for token in visible if not token.punctuation] or visible


def words_of(hypothesis: Hypothesis, tokenizer: Tokenizer, clock: Clock) -> list[Word]:
    """Words of a hypothesis, rising in time and inside the recording.

    A word goes from its first token's frame to its last token's frame plus duration; punctuation belongs to
    the word before it and takes no time. A word's confidence is the smallest among its tokens' (punctuation
    aside).
    """
    groups = _attach_punctuation(_grouped(_tokens(hypothesis, tokenizer, clock), tokenizer), tokenizer)
    spans = _rising([(group.said[0].start, group.said[-1].end) for group in groups])
    return [
        Word(group.text, start / clock.sample_rate, end / clock.sample_rate, _smallest(group.said))
        for group, (start, end) in zip(groups, spans)
    ]


def segments_of(words: Sequence[Word], gap: float = SEGMENT_GAP) -> list[Segment]:
    """Words joined to segments, which end after `. ? !` and at silences of `gap` seconds or more.

    A segment's confidence is the mean of its words', weighted by their durations.
    """
    groups: list[list[Word]] = []
    for word in words:
        previous = groups[-1][-1] if groups else None
        if previous is None or previous.text[-1:] in SENTENCE_ENDS or word.start - previous.end >= gap:
            groups.append([])
        groups[-1].append(word)
    return [
        Segment(
            text=" ".join(word.text for word in group),
            start=group[0].start,
            end=max(word.end for word in group),
            confidence=_weighted_confidence(group),
            words=tuple(group),
        )
        for group in groups
    ]


def _tokens(hypothesis: Hypothesis, tokenizer: Tokenizer, clock: Clock) -> Iterator[_Token]:
    pieces = tokenizer.pieces(hypothesis.tokens)
    confidences: Sequence[float | None] = hypothesis.confidences or [None] * len(pieces)
    timed = zip(hypothesis.tokens, pieces, hypothesis.frames, hypothesis.durations, confidences)
    for token, piece, frame, duration, confidence in timed:
        signs = piece.strip("\u2581 ")
        yield _Token(
            token=token,
            start=clock.sample(frame),
            end=clock.sample(frame + duration),
            confidence=confidence,
            visible=bool(signs),
            punctuation=all(unicodedata.category(sign).startswith("P") for sign in signs),
        )


def _grouped(tokens: Iterator[_Token], tokenizer: Tokenizer) -> list[_Group]:
    """Tokens split where a new word starts; what decodes to nothing is left out."""
    groups: list[_Group] = []
    for token in tokens:
        if not groups or tokenizer.starts_word(token.token):
            groups.append(_Group([]))
        groups[-1].tokens.append(token)
    for group in groups:
        group.text = tokenizer.decode(group.ids)
    return [group for group in groups if group.text]


def _attach_punctuation(groups: list[_Group], tokenizer: Tokenizer) -> list[_Group]:
    """Signs that decoding writes without a blank join the word before them."""
    joined: list[_Group] = []
    for group in groups:
        if joined and all(token.punctuation for token in group.tokens):
            text = tokenizer.decode(joined[-1].ids + group.ids)
            if not any(character.isspace() for character in text):
                joined[-1] = _Group(joined[-1].tokens + group.tokens, text)
                continue
        joined.append(group)
    return joined


def _rising(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans whose starts and ends never fall, and that end before the next later start."""
    starts = list(accumulate((start for start, _ in spans), max))
    ends = [max(start, end) for start, (_, end) in zip(starts, spans)]
    limit = None
    for i in reversed(range(len(spans))):
        if i + 1 < len(spans) and starts[i + 1] > starts[i]:
            limit = starts[i + 1]
        if limit is not None:
            ends[i] = min(ends[i], limit)
    return list(zip(starts, accumulate(ends, max)))


def _smallest(tokens: Sequence[_Token]) -> float | None:
    known = [token.confidence for token in tokens if token.confidence is not None]
    return round(float(min(known)), 6) if known else None


def _weighted_confidence(words: Sequence[Word]) -> float | None:
    known = [(word.confidence, word.end - word.start) for word in words if word.confidence is not None]
    total = sum(weight for _, weight in known)
    if not known:
        return None
    if total <= 0:
        return round(sum(confidence for confidence, _ in known) / len(known), 6)
    return round(sum(confidence * weight for confidence, weight in known) / total, 6)
