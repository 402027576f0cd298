"""Character vocabularies: the `labels` of NeMo's character models, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from aronnax.collections.common.text.tokenizer import TextCleaner, check_ids
from aronnax.core.errors import CheckpointError


class CharacterTokenizer:
    """One id a character; a label of several characters stands for a whole word.

    Characters outside the labels are lower-cased, and left out where that does not help, as NeMo does. A word
    begins at the blank before it, so only the blank `starts_word`. Raises CheckpointError when there is no label
    or one stands there twice.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._vocabulary = tuple(labels)
        self._ids = {label: token for token, label in enumerate(self._vocabulary)}
        if not self._vocabulary or "" in self._ids:
            raise CheckpointError("labels: a character vocabulary needs at least one label and no empty one")
        if len(self._ids) != len(self._vocabulary):
            raise CheckpointError("labels: a label stands there twice, so that its id is not clear")

    @property
    def vocab_size(self) -> int:
        """Number of labels V, the blank of CTC not among them."""
        return len(self._vocabulary)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The labels in the order of their ids."""
        return self._vocabulary

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text`; `language` is of no use here and ignored."""
        symbols: list[str] = []
        for word in text.strip().split(" "):
            symbols.append(" ")
            symbols.extend([word] if len(word) > 1 and word in self._ids else word)
        known = (symbol if symbol in self._ids else symbol.lower() for symbol in symbols[1:])
        return [self._ids[symbol] for symbol in known if symbol in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without blanks at its ends or in front of punctuation."""
        return self._cleaner("".join(self.pieces(ids)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The labels themselves."""
        return [self._vocabulary[token] for token in check_ids(ids, self.vocab_size)]

    def starts_word(self, token: int) -> bool:
        """Whether this is the blank between two words."""
        return self._vocabulary[token] == " "

    def assets(self) -> dict[str, bytes]:
        """`tokenizer.yaml` with the labels."""
        import yaml

        settings = {"type": "characters", "labels": list(self._vocabulary)}
        return {"tokenizer.yaml": yaml.safe_dump(settings, allow_unicode=True, sort_keys=False).encode()}

    @cached_property
    def _cleaner(self) -> TextCleaner:
        return TextCleaner(self._vocabulary)
