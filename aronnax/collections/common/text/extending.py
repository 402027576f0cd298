"""Growing a vocabulary while the old pieces keep their ids, so that a model keeps what it learnt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.characters import CharacterTokenizer
from aronnax.collections.common.text.sentencepiece_file import (
    Piece,
    append_pieces,
    model_type,
    ordinary_pieces,
)
from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.collections.common.text.tokenizer import WORD_MARK, Tokenizer
from aronnax.collections.common.text.training import train_sentencepiece
from aronnax.collections.common.text.wordpiece import WordPieceTokenizer
from aronnax.core.errors import OptionError

_LONGEST_PIECE = 16


def extend(
    tokenizer: Tokenizer,
    pieces: Sequence[str] = (),
    *,
    texts: Iterable[str] = (),
    count: int = 0,
    language: str | None = None,
) -> tuple[Tokenizer, list[int]]:
    """A tokenizer with more pieces, and the old row each of its ids takes: `kept_rows[new]`, -1 for a new piece.

    Old pieces keep their order (and, outside an aggregate, their ids); new ones follow. `kept_rows` has the
    new vocabulary's length: the blank is not in it and moves from the old last index to the new one.

    Args:
        tokenizer: Left as it is.
        pieces: Added as they stand and always matched whole; those already known are passed over.
        texts: New transcripts from which `count` pieces are learnt: first every unknown character, then
            for BPE the merges that training would have made next, for unigram the likeliest new pieces.
        count: How many to learn from `texts`.
        language: The part of an aggregate tokenizer to extend.

    Raises:
        OptionError: nothing to add, or the texts do not hold `count` new pieces.
    """
    lines = [text for text in texts if text.strip()]
    if isinstance(tokenizer, AggregateTokenizer):
        return _extend_part(tokenizer, pieces, lines, count, language)
    known = set(tokenizer.vocabulary)
    given = [piece for piece in dict.fromkeys(pieces) if piece not in known]
    if isinstance(tokenizer, SentencePieceTokenizer):
        extended: Tokenizer = _extend_sentencepiece(tokenizer, given, lines, count)
    elif isinstance(tokenizer, CharacterTokenizer):
        extended = CharacterTokenizer([*tokenizer.vocabulary, *given, *_new_characters(lines, known, count)])
    elif isinstance(tokenizer, WordPieceTokenizer) and not lines:
        extended = WordPieceTokenizer([*tokenizer.vocabulary, *given], tokenizer.unknown)
    else:
        raise OptionError(f"a {type(tokenizer).__name__} cannot learn pieces from texts; give the pieces")
    added = extended.vocab_size - tokenizer.vocab_size
    if not added:
        raise OptionError(
            "there is nothing to add: all given pieces are known, and no texts with a count came"
        )
    return extended, [*range(tokenizer.vocab_size), *[-1] * added]


def _extend_part(
    tokenizer: AggregateTokenizer, pieces: Sequence[str], lines: list[str], count: int, language: str | None
) -> tuple[AggregateTokenizer, list[int]]:
    if language not in tokenizer.parts:
        raise OptionError(f"say which language to extend: one of {', '.join(tokenizer.languages)}")
    part, rows = extend(tokenizer.parts[language], pieces, texts=lines, count=count)
    kept: list[int] = []
    for name, old in tokenizer.parts.items():
        offset = tokenizer.offsets[name]
        own = rows if name == language else range(old.vocab_size)
        kept.extend(row + offset if row >= 0 else -1 for row in own)
    return AggregateTokenizer({**tokenizer.parts, language: part}), kept


def _extend_sentencepiece(
    tokenizer: SentencePieceTokenizer, given: Sequence[str], lines: list[str], count: int
) -> SentencePieceTokenizer:
    extended = _append(tokenizer, [Piece(text, 0.0, "user_defined") for text in given])
    if not lines or count < 1:
        return extended
    kind = model_type(tokenizer.model)
    floor = min(extended.scores()) - 1.0
    characters = _unknown_characters(extended, lines, count)
    extended = _append(
        extended, [Piece(char, floor - rank, "normal") for rank, char in enumerate(characters)]
    )
    wanted = count - len(characters)
    if wanted == 0:
        return extended
    if kind == "bpe":
        start = floor - len(characters)
        learnt = [
            Piece(text, start - rank, "normal")
            for rank, text in enumerate(_next_merges(extended, lines, wanted))
        ]
    elif kind == "unigram":
        learnt = _likeliest_pieces(extended, lines, wanted)
    else:
        learnt = []
    if len(learnt) < wanted:
        raise OptionError(
            f"the {len(lines)} texts hold only {len(characters) + len(learnt)} new {kind} pieces, "
            f"{count} were asked for; choose a smaller count or give more text"
        )
    return _append(extended, learnt)


def _append(tokenizer: SentencePieceTokenizer, pieces: Sequence[Piece]) -> SentencePieceTokenizer:
    if not pieces:
        return tokenizer
    return SentencePieceTokenizer(append_pieces(tokenizer.model, tokenizer.vocab_size, pieces))


def _new_characters(lines: Iterable[str], known: set[str], count: int) -> list[str]:
    counts = Counter(char for line in lines for char in line if char not in known)
    return [char for char, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]]


def _unknown_characters(tokenizer: SentencePieceTokenizer, lines: Iterable[str], count: int) -> list[str]:
    """The characters that, after the model's own normalisation, no piece spells; commonest first."""
    normalised = (tokenizer.normalise(line) for line in lines)
    return _new_characters(normalised, set(tokenizer.vocabulary) | {" ", WORD_MARK}, count)


def _next_merges(tokenizer: SentencePieceTokenizer, lines: Iterable[str], count: int) -> list[str]:
    """The pieces that byte-pair training goes on to make from `lines`, in order.

    Pairs are counted by the text they make, since SentencePiece merges any two neighbours whose joined text
    is a piece, whatever their border.
    """
    ordinary = ordinary_pieces(tokenizer.model)
    words = Counter(word for line in lines for word in _words(tokenizer, line, ordinary))
    segments = [list(word) for word in words]
    weights = list(words.values())
    counts: Counter[str] = Counter()
    places: defaultdict[str, set[int]] = defaultdict(set)

    def note(index: int, sign: int) -> None:
        for left, right in zip(segments[index], segments[index][1:]):
            if len(left) + len(right) <= _LONGEST_PIECE:
                counts[left + right] += sign * weights[index]
                places[left + right].add(index)

    for index in range(len(segments)):
        note(index, 1)
    merges: list[str] = []
    while len(merges) < count:
        best = max(counts, key=lambda text: (counts[text], -len(text), text), default="")
        if counts[best] <= 0:
            break
        merges.append(best)
        for index in places.pop(best):
            note(index, -1)
            segments[index] = _merge(segments[index], best)
            note(index, 1)
        counts.pop(best, None)
        places.pop(best, None)
    return merges


def _words(tokenizer: SentencePieceTokenizer, text: str, ordinary: frozenset[int]) -> list[tuple[str, ...]]:
    """The pieces of `text` word by word; merges never cross a word's border or a special piece."""
    words: list[list[str]] = [[]]
    for token in tokenizer.encode(text):
        piece = tokenizer.vocabulary[token]
        if token not in ordinary:
            words.append([])
        elif piece.startswith(WORD_MARK):
            words.append([piece])
        else:
            words[-1].append(piece)
    return [tuple(word) for word in words if word]


def _merge(segments: list[str], text: str) -> list[str]:
    merged: list[str] = []
    for segment in segments:
        if merged and merged[-1] + segment == text:
            merged[-1] = text
        else:
            merged.append(segment)
    return merged


def _likeliest_pieces(tokenizer: SentencePieceTokenizer, lines: list[str], count: int) -> list[Piece]:
    """New pieces of a unigram model trained on `lines`, with its log probabilities."""
    known = set(tokenizer.vocabulary)
    size = count + len(set("".join(lines))) + 2
    while True:
        try:
            trained = train_sentencepiece(lines, size, "unigram")
        except OptionError:
            return []
        ranked = sorted(zip(trained.scores(), trained.vocabulary), reverse=True)
        new = [Piece(text, score, "normal") for score, text in ranked if text not in known]
        if len(new) >= count:
            return new[:count]
        size += count - len(new)
