"""The tokenizer of a prompted model: ordinary text beside special tokens such as `<|en|>`.

Two kinds exist. An aggregate keeps the special tokens in a part called `spl_tokens` and has a part a language; a
single SentencePiece model has them among its pieces. Both read and write the ids of NeMo's CanaryTokenizer and
CanaryBPETokenizer. Times stand in a text as `<|n|>` around a word, `n` counting encoder frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.collections.common.text.tokenizer import WORD_MARK, Tokenizer, check_ids
from aronnax.core.errors import CheckpointError, OptionError

SPECIALS = "spl_tokens"
"""Name of the aggregate's part that holds the special tokens."""
PAD, START, END = "<pad>", "<|startoftranscript|>", "<|endoftext|>"
NO_SPEECH = "<|nospeech|>"

_SPECIAL = re.compile(r"<\|[^|]+\|>|<pad>")
_FRAME = re.compile(r"<\|(\d+)\|>")
_LANGUAGE = re.compile(r"<\|([a-z]{2,3}(?:-[A-Za-z]+)?)\|>")
_NOT_LANGUAGES = frozenset({"pnc", "itn"})
# Second-generation aggregates may name their parts by region where prompts name the language alone.
_REGIONS = {"en": "en-US", "es": "es-ES", "fr": "fr-FR", "de": "de-DE"}


class CanaryTokenizer:
    """An aggregate or a SentencePiece tokenizer that knows its special tokens.

    Raises CheckpointError when the tokenizer lacks `<pad>`, `<|startoftranscript|>` or `<|endoftext|>`.
    """

    def __init__(self, inner: Tokenizer) -> None:
        self.inner: Tokenizer = inner.inner if isinstance(inner, CanaryTokenizer) else inner
        self.parts: AggregateTokenizer | None = None
        if isinstance(self.inner, AggregateTokenizer):
            self.parts = self.inner
            if SPECIALS not in self.parts.parts:
                raise CheckpointError(
                    f"a prompted model's aggregate tokenizer needs the part {SPECIALS!r} with its special tokens;"
                    f" this one has {', '.join(self.parts.languages)}"
                )
            offset = self.parts.offsets[SPECIALS]
            vocabulary = self.parts.parts[SPECIALS].vocabulary
        else:
            offset, vocabulary = 0, self.inner.vocabulary
        self.specials = {
            piece: offset + token for token, piece in enumerate(vocabulary) if _SPECIAL.fullmatch(piece)
        }
        missing = [token for token in (PAD, START, END) if token not in self.specials]
        if missing:
            raise CheckpointError(f"the tokenizer of a prompted model lacks {', '.join(missing)}")
        self.pad_id, self.start_id, self.end_id = (self.specials[token] for token in (PAD, START, END))

    @property
    def vocab_size(self) -> int:
        """Number of pieces V."""
        return self.inner.vocab_size

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The pieces in the order of their ids."""
        return self.inner.vocabulary

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Languages that can be asked for: those with a token and, in an aggregate, a part of their own."""
        codes = [match[1] for token in self.specials if (match := _LANGUAGE.fullmatch(token))]
        codes = [code for code in codes if code not in _NOT_LANGUAGES]
        if self.parts is None:
            return tuple(codes)
        return tuple(code for code in codes if self._part(code) is not None)

    @cached_property
    def frame_ids(self) -> dict[int, int]:
        """{id of a time mark: the encoder frame it names}."""
        marks = (
            (match, token) for piece, token in self.specials.items() if (match := _FRAME.fullmatch(piece))
        )
        return {token: int(match[1]) for match, token in marks}

    @property
    def no_speech_id(self) -> int | None:
        """Id of `<|nospeech|>`, where the model has it."""
        return self.specials.get(NO_SPEECH)

    def special_id(self, token: str) -> int:
        """Id of a special token; OptionError if the tokenizer has none of that name."""
        if token not in self.specials:
            raise OptionError(f"the tokenizer has no special token {token!r}")
        return self.specials[token]

    def language_token(self, token: str, name: str = "language", writes: bool = False) -> str:
        """`<|code|>` itself if its language is known; OptionError lists those that are.

        `writes` says that text of this language has to be encoded, for which an aggregate needs its part.
        """
        code = token.removeprefix("<|").removesuffix("|>")
        if code in self.languages or (not writes and code == "unklang" and token in self.specials):
            return token
        raise OptionError(
            f"{name}={code!r} is not a language of this model, which knows {', '.join(self.languages)}"
        )

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of `text` by the part of `language`; `<|n|>` around words stay whole.

        In an aggregate every word between time marks is encoded by itself, as NeMo does; marks that do not
        stand in pairs keep their places.
        """
        if self.parts is None:
            return self.inner.encode(text)
        if language is None:
            raise OptionError(f"say in which language the text is: one of {', '.join(self.languages)}")
        part = self._part(language)
        if part is None:
            raise OptionError(
                f"{language!r} is not a language of this tokenizer, which has {', '.join(self.languages)}"
            )
        if not _FRAME.search(text):
            return self.parts.encode(text, part)
        ids: list[int] = []
        for piece in re.split(r"(<\|\d+\|>)", text):
            if _FRAME.fullmatch(piece):
                ids.append(self.special_id(piece))
                continue
            for word in piece.split():
                ids.extend(self.parts.encode(word, part))
        return ids

    def encode_answer(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a transcript with `<|endoftext|>` at its end."""
        if self.parts is None:
            return self.inner.encode(text + END)
        return [*self.encode(text, language), self.end_id]

    def encode_prompt(self, pieces: Iterable[tuple[str, bool]], language: str | None = None) -> list[int]:
        """Ids of (text, is it free text) in order; free text is encoded by the part of `language`.

        A single tokenizer sees the pieces as one text, as it did in training.
        """
        pieces = list(pieces)
        for text, free in pieces:
            if not free:
                self.special_id(text)
        if self.parts is None:
            return self.inner.encode("".join(text for text, _ in pieces))
        ids: list[int] = []
        for text, free in pieces:
            ids.extend(self.encode(text, language) if free else [self.special_id(text)])
        return ids

    def decode(self, ids: Sequence[int], specials: bool = False) -> str:
        """Text of `ids`, no blanks at its ends; special tokens are left out unless asked for.

        Unlike that of other recognisers, the text keeps its blanks in front of punctuation: French wants them.
        """
        ids = check_ids(ids, self.vocab_size)
        if not specials:
            ids = [token for token in ids if token not in self._special_ids]
        if isinstance(self.inner, SentencePieceTokenizer):
            return self.inner.decode_plain(ids).strip()
        return "".join(self.inner.pieces(ids)).replace(WORD_MARK, " ").strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as the vocabulary spells them."""
        return self.inner.pieces(ids)

    def is_special(self, token: int) -> bool:
        """Whether an id is that of a special token."""
        return token in self._special_ids

    def starts_word(self, token: int) -> bool:
        """Whether decoding puts a blank before this piece."""
        return self.inner.vocabulary[token].startswith(WORD_MARK)

    def assets(self) -> dict[str, bytes]:
        """The files of the tokenizer inside."""
        return self.inner.assets()

    def _part(self, language: str) -> str | None:
        assert self.parts is not None, "only an aggregate has parts"
        for name in (language, _REGIONS.get(language, language)):
            if name in self.parts.parts and name != SPECIALS:
                return name
        return None

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())
