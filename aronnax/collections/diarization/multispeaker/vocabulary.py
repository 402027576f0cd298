"""Speaker tokens in a recogniser's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from aronnax.collections.asr.finetune import extend_tokenizer
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.text import Tokenizer, extend
from aronnax.collections.common.text.prompts import SPECIALS, CanaryTokenizer
from aronnax.core.errors import ConfigError


def with_speaker_tokens(recogniser: SpeechRecognizer, tokens: Sequence[str]) -> SpeechRecognizer:
    """The recogniser with all of `tokens` among its pieces; it is itself where none is missing.

    New rows of its heads are the mean of the old ones, which are kept as they are.
    """
    tokenizer = recogniser.tokenizer
    if tokenizer is None:
        raise ConfigError("the recogniser has no tokenizer, so it cannot be given speaker tokens")
    missing = [token for token in tokens if token not in tokenizer.vocabulary]
    if not missing:
        return recogniser
    part = None
    if isinstance(tokenizer, CanaryTokenizer):
        part = None if tokenizer.parts is None else SPECIALS
        tokenizer = tokenizer.inner
    extended, rows = extend(tokenizer, missing, language=part)
    return extend_tokenizer(recogniser, extended, rows)


def speaker_ids(tokenizer: Tokenizer | None, tokens: Sequence[str]) -> list[int]:
    """Ids of the speaker tokens by number; ConfigError names one that the tokenizer lacks."""
    pieces = {} if tokenizer is None else {piece: token for token, piece in enumerate(tokenizer.vocabulary)}
    for token in tokens:
        if token not in pieces:
            raise ConfigError(
                f"the recogniser's tokenizer has no speaker token {token!r}; training adds them to a checkpoint"
            )
    return [pieces[token] for token in tokens]
