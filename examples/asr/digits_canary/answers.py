"""What the model has to write: strings of digits in four languages, and the tokenizer for them."""

from __future__ import annotations

from aronnax.collections.common.text import Tokenizer
from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.prompts import CanaryTokenizer
from aronnax.collections.common.text.prompts.special_tokens import build_special_tokenizer, second_generation
from aronnax.collections.common.text.prompts.tokenizer import SPECIALS
from aronnax.collections.common.text.training import train_sentencepiece

WORDS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
}
LANGUAGES = tuple(WORDS)
PIECES = {"en": 46, "de": 50, "fr": 51, "es": 44}
"""The most pieces that SentencePiece makes of each language's words, every word among them."""

_DIGITS = {word: digit for digit, word in enumerate(WORDS["en"])}


def say(text: str, language: str, pnc: bool) -> str:
    """English digit words in `language`, with or without punctuation and case.

    >>> say("seven three nine", "de", pnc=True)
    'Sieben, drei, neun.'
    """
    words = [WORDS[language][_DIGITS[word]] for word in text.split()]
    if not words or not pnc:
        return " ".join(words)
    return (", ".join(words) + ".").capitalize()


def digit_tokenizer() -> CanaryTokenizer:
    """A piece a word, lower-cased and as a sentence begins, and a piece a sign, for each language."""
    strings = [*WORDS["en"]] * 10 + [f"{one} {two}" for one in WORDS["en"] for two in WORDS["en"]]
    parts: dict[str, Tokenizer] = {
        SPECIALS: build_special_tokenizer(second_generation(LANGUAGES, frames=0, speakers=0, spare=0))
    }
    for language in LANGUAGES:
        texts = [say(text, language, pnc) for text in strings for pnc in (False, True)]
        parts[language] = train_sentencepiece(texts, PIECES[language], "unigram")
    return CanaryTokenizer(AggregateTokenizer(parts))
