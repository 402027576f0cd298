"""Text normalisation before scoring, by the language of the text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from aronnax.core.errors import MissingExtraError, OptionError

NORMALISERS = ("none", "basic", "whisper")


def normaliser(name: str = "none", language: str | None = None) -> Callable[[str], str]:
    """Returns the text normaliser of that name for texts of a language (a code such as `de`).

    `none` keeps the text; `basic` drops case, punctuation and bracketed words in any language; `whisper` is Whisper's
    English normaliser (also numbers to digits and one spelling) for English and where no language is known, and
    `basic` for others, as Whisper's authors do. Raises OptionError for another name.
    """
    if name == "none":
        return str
    if name == "whisper":
        return _whisper(language is None or language.split("-")[0] == "en")
    # `whisper-basic` is the older name of `basic`.
    if name in ("basic", "whisper-basic"):
        return _whisper(False)
    raise OptionError(f"no text normaliser is named {name!r}; there are {', '.join(NORMALISERS)}")


@cache
def _whisper(english: bool) -> Callable[[str], str]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingExtraError("whisper-normalizer", "train", "Whisper's text normalisation") from error
    return EnglishTextNormalizer() if english else BasicTextNormalizer()
