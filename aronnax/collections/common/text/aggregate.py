"""Several languages' tokenizers side by side, their ids shifted one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

from aronnax.collections.common.text.tokenizer import WORD_MARK, TextCleaner, Tokenizer, check_ids
from aronnax.core.errors import CheckpointError, OptionError


class AggregateTokenizer:
    """An ordered mapping of language to tokenizer; a language's ids begin where the one before ends."""

    def __init__(self, parts: Mapping[str, Tokenizer]) -> None:
        if not parts:
            raise CheckpointError("an aggregate tokenizer needs at least one language")
        self.parts = dict(parts)
        self._members = tuple(self.parts.values())
        starts = [0, *accumulate(part.vocab_size for part in self._members)]
        self._starts, self._vocab_size = starts[:-1], starts[-1]
        self.offsets = dict(zip(self.parts, self._starts))
        self._vocabulary = tuple(piece for part in self._members for piece in part.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Number of pieces of all languages together, the blank not among them."""
        return self._vocab_size

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces in the order of their ids; two languages may spell the same piece."""
        return self._vocabulary

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages in the order of their ids."""
        return tuple(self.parts)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text` in the part of `language`.

        Raises:
            OptionError: no language was given, or the tokenizer has no part of that name.
        """
        if language not in self.parts:
            said = "no language was given" if language is None else f"it has no language {language!r}"
            raise OptionError(f"this tokenizer has a part for each of {', '.join(self.parts)}; {said}")
        offset = self.offsets[language]
        return [token + offset for token in self.parts[language].encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` of any mixture of languages."""
        return self._cleaner("".join(self.pieces(ids)).replace(WORD_MARK, " "))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as their language's vocabulary spells them."""
        return [self._vocabulary[token] for token in check_ids(ids, self.vocab_size)]

    def starts_word(self, token: int) -> bool:
        """Whether decoding puts a blank before this piece."""
        part = self._part(token)
        return self._members[part].starts_word(token - self._starts[part])

    def language_of(self, token: int) -> str:
        """The language a piece belongs to."""
        return self.languages[self._part(token)]

    def assets(self) -> dict[str, bytes]:
        """`tokenizer.yaml` with the order of the languages, and each language's files in its own folder."""
        import yaml

        settings = yaml.safe_dump(
            {"type": "aggregate", "languages": list(self.parts)}, allow_unicode=True, sort_keys=False
        )
        files = {
            f"{language}/{name}": data
            for language, part in self.parts.items()
            for name, data in part.assets().items()
        }
        return {"tokenizer.yaml": settings.encode(), **files}

    def _part(self, token: int) -> int:
        return bisect_right(self._starts, check_ids([token], self.vocab_size)[0]) - 1

    @cached_property
    def _cleaner(self) -> TextCleaner:
        return TextCleaner(self._vocabulary)
