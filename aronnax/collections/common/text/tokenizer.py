"""What every tokenizer offers, and the rules of reading text back that all of them share.

Ids are those of NeMo's checkpoints: 0..V-1 in the order of the vocabulary file; the blank of CTC and of the
transducers is V and is never part of a tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

WORD_MARK = "\u2581"
"""What SentencePiece writes where a blank stood."""

_SPECIAL = re.compile(r"\[.*\]$|<.*>$|##|\u2581|\s*$")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of pieces V, the blank not among them."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces in the order of their ids."""

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text`; `language` chooses the part of an aggregate tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without blanks at its ends or in front of punctuation."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as the vocabulary spells them."""

    def starts_word(self, token: int) -> bool:
        """Whether decoding puts a blank before this piece when it is not the first."""

    def assets(self) -> dict[str, bytes]:
        """Files from which `tokenizer_from_assets` makes an equal tokenizer."""


def punctuation_of(vocabulary: Iterable[str]) -> frozenset[str]:
    """Punctuation signs that a model writes as pieces of their own, found as NeMo finds them.

    Pieces that begin a word, continue a WordPiece word or are special (`<...>`, `[...]`) are not looked at.
    """
    return frozenset(
        sign
        for piece in vocabulary
        if not _SPECIAL.match(piece)
        for sign in piece
        if unicodedata.category(sign).startswith("P")
    )


class TextCleaner:
    """Takes away the one blank that decoding leaves in front of punctuation, and blanks at the ends."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self.signs = punctuation_of(vocabulary)
        self._blank_before_sign = (
            re.compile(r"\s([" + re.escape("".join(sorted(self.signs))) + r"])") if self.signs else None
        )

    def __call__(self, text: str) -> str:
        if self._blank_before_sign is not None:
            text = self._blank_before_sign.sub(r"\1", text)
        return text.strip()


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """`ids` as a list of ints.

    Raises:
        IndexError: an id is outside 0..vocab_size-1, which usually means that a blank was left in.
    """
    checked = [int(token) for token in ids]
    for token in checked:
        if not 0 <= token < vocab_size:
            raise IndexError(
                f"token id {token} is outside the vocabulary of {vocab_size} pieces; "
                f"the blank ({vocab_size}) must be taken out before decoding"
            )
    return checked
