"""SentencePiece models (BPE, unigram, characters), the tokenizer of nearly every public checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from aronnax.collections.common.text.tokenizer import WORD_MARK, TextCleaner, check_ids
from aronnax.core.errors import CheckpointError


class SentencePieceTokenizer:
    """A SentencePiece model held as its file's bytes.

    No begin, end or padding id is ever added: the ids are exactly those of the model file.
    Raises CheckpointError when the bytes are not a SentencePiece model.
    """

    def __init__(self, model: bytes, name: str = "tokenizer.model") -> None:
        import sentencepiece

        self.model = bytes(model)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{name}: {len(self.model)} bytes that are not a SentencePiece model; "
                "the file is damaged or of another kind"
            ) from error
        self._vocabulary = tuple(
            self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())
        )
        if not self._vocabulary:
            raise CheckpointError(f"{name}: a SentencePiece model without pieces")

    @classmethod
    def from_file(cls, path: str | Path) -> SentencePieceTokenizer:
        """Read a `.model` file."""
        return cls(Path(path).read_bytes(), name=str(path))

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
        """Id of the piece that stands for characters the model does not know."""
        return int(self._processor.unk_id())

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text`; `language` is of no use here and ignored."""
        return list(self._processor.encode(text, out_type=int))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without blanks at its ends or in front of punctuation."""
        return self._cleaner(self._processor.decode(check_ids(ids, self.vocab_size)))

    def decode_plain(self, ids: Sequence[int]) -> str:
        """Text of `ids` exactly as SentencePiece writes it."""
        return str(self._processor.decode(check_ids(ids, self.vocab_size)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as the vocabulary spells them, with the mark of a word's beginning."""
        return [self._vocabulary[token] for token in check_ids(ids, self.vocab_size)]

    def starts_word(self, token: int) -> bool:
        """Whether decoding puts a blank before this piece: it has the word mark, and no sign follows."""
        return token in self._word_starts

    def assets(self) -> dict[str, bytes]:
        """`tokenizer.yaml` and `tokenizer.model`."""
        return {"tokenizer.yaml": b"type: sentencepiece\n", "tokenizer.model": self.model}

    def scores(self) -> list[float]:
        """Each piece's score: log probability (unigram) or minus the rank of its merge (BPE)."""
        return [self._processor.get_score(token) for token in range(self.vocab_size)]

    def normalise(self, text: str) -> str:
        """`text` as the model's own rules rewrite it before cutting it into pieces."""
        return str(self._processor.normalize(text))

    @cached_property
    def _cleaner(self) -> TextCleaner:
        return TextCleaner(self._vocabulary)

    @cached_property
    def _word_starts(self) -> frozenset[int]:
        signs = self._cleaner.signs
        return frozenset(
            token
            for token, piece in enumerate(self._vocabulary)
            if piece.startswith(WORD_MARK) and piece[1:2] not in signs
        )
