"""Tokenizers: text to the ids a model predicts, and back."""

from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.assets import read_tokenizer, tokenizer_from_assets
from aronnax.collections.common.text.characters import CharacterTokenizer
from aronnax.collections.common.text.extending import extend
from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.collections.common.text.tokenizer import WORD_MARK, Tokenizer
from aronnax.collections.common.text.training import train_sentencepiece
from aronnax.collections.common.text.wordpiece import WordPieceTokenizer

__all__ = [
    "WORD_MARK",
    "AggregateTokenizer",
    "CharacterTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "extend",
    "read_tokenizer",
    "tokenizer_from_assets",
    "train_sentencepiece",
]
