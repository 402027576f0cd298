"""WordPiece over a `vocab.txt`: words are cut greedily into their longest known pieces, `##` continues a word.

Follows BERT's cased tokenizer, with which NeMo reads such a vocabulary: control characters go, every kind of
blank is a blank, punctuation signs and CJK characters are words of their own, a word with an unknown part is
one `[UNK]`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from aronnax.collections.common.text.tokenizer import TextCleaner, check_ids
from aronnax.core.errors import CheckpointError

_LONGEST_WORD = 100
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPieceTokenizer:
    """Greedy longest-match tokenizer over a list of pieces.

    Raises CheckpointError when the vocabulary is empty, names a piece twice, or lacks the unknown piece.
    """

    def __init__(self, vocabulary: Iterable[str], unknown: str = "[UNK]") -> None:
        self._vocabulary = tuple(vocabulary)
        self._ids = {piece: token for token, piece in enumerate(self._vocabulary)}
        if len(self._ids) != len(self._vocabulary):
            raise CheckpointError("vocab.txt: a piece stands there twice, so that its id is not clear")
        if unknown not in self._ids:
            raise CheckpointError(
                f"vocab.txt: the unknown piece {unknown!r} is missing from its {len(self._vocabulary)} lines"
            )
        self.unknown = unknown
        self._specials = frozenset(
            piece for piece in self._vocabulary if piece.startswith("[") and piece.endswith("]")
        )

    @classmethod
    def from_file(cls, path: str | Path) -> WordPieceTokenizer:
        """Read a `vocab.txt`, one piece a line."""
        return cls(read_vocabulary(Path(path).read_bytes()))

    @property
    def vocab_size(self) -> int:
        """Number of pieces V, the blank not among them."""
        return len(self._vocabulary)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces in the order of their ids."""
        return self._vocabulary

    @property
    def unknown_id(self) -> int:
        """Id of the piece that stands for a word the vocabulary cannot spell."""
        return self._ids[self.unknown]

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text`; `language` is of no use here and ignored."""
        return [token for word in _words(text, self._specials) for token in self._encode_word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without blanks at its ends or in front of punctuation."""
        return self._cleaner(" ".join(self.pieces(ids)).replace(" ##", ""))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as the vocabulary spells them, `##` included."""
        return [self._vocabulary[token] for token in check_ids(ids, self.vocab_size)]

    def starts_word(self, token: int) -> bool:
        """Whether decoding puts a blank before this piece: neither a continuation nor a punctuation sign."""
        piece = self._vocabulary[token]
        return not piece.startswith("##") and piece[:1] not in self._cleaner.signs

    def assets(self) -> dict[str, bytes]:
        """`tokenizer.yaml` and `vocab.txt`."""
        import yaml

        settings = yaml.safe_dump({"type": "wordpiece", "unknown": self.unknown})
        return {
            "tokenizer.yaml": settings.encode(),
            "vocab.txt": "".join(f"{piece}\n" for piece in self._vocabulary).encode(),
        }

    def _encode_word(self, word: str) -> list[int]:
        if word in self._specials:
            return [self._ids[word]]
        if len(word) > _LONGEST_WORD:
            return [self.unknown_id]
        tokens, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                token = self._ids.get(prefix + word[start:end])
                if token is not None:
                    break
            else:
                return [self.unknown_id]
            tokens.append(token)
            start = end
        return tokens

    @cached_property
    def _cleaner(self) -> TextCleaner:
        return TextCleaner(self._vocabulary)


def read_vocabulary(data: bytes) -> list[str]:
    """Pieces of a `vocab.txt` in order.

    Raises:
        CheckpointError: the bytes are not UTF-8 text.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("vocab.txt: not UTF-8 text; the file is damaged or of another kind") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _words(text: str, specials: frozenset[str]) -> list[str]:
    """Blank-separated words, with punctuation signs and CJK characters split off."""
    cleaned = "".join(
        " " if _is_blank(char) else "" if _is_control(char) else f" {char} " if _is_cjk(char) else char
        for char in unicodedata.normalize("NFC", text)
    )
    words: list[str] = []
    for word in cleaned.split():
        words.extend([word] if word in specials else _split_signs(word))
    return words


def _split_signs(word: str) -> list[str]:
    parts: list[str] = []
    fresh = True
    for char in word:
        if _is_sign(char):
            parts.append(char)
            fresh = True
        elif fresh:
            parts.append(char)
            fresh = False
        else:
            parts[-1] += char
    return parts


def _is_blank(char: str) -> bool:
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
    return char in "\x00\ufffd" or unicodedata.category(char).startswith("C")


def _is_sign(char: str) -> bool:
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_sign or unicodedata.category(char).startswith("P")


def _is_cjk(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in _CJK)
