"""Training of SentencePiece models on texts."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.core.errors import OptionError

Kind = Literal["bpe", "unigram", "char"]


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    kind: Kind = "bpe",
    *,
    specials: Sequence[str] = (),
    character_coverage: float = 1.0,
    lower: bool = False,
    max_texts: int | None = None,
    seed: int = 0,
) -> SentencePieceTokenizer:
    """A SentencePiece model of `vocab_size` pieces laid out as NeMo's: `<unk>` is 0, then `specials`; no bos, no eos.

    Args:
        texts: One transcript each; empty ones are passed over.
        vocab_size: Pieces in all. For `char` it is an upper bound: every character there is, and no more.
        kind: `bpe`, `unigram` or `char`.
        specials: Pieces that always stand whole, such as `<|en|>`.
        character_coverage: Share of the characters to be known; below 1 for writing with very many signs.
        lower: Lower-case the texts first, and later all that is encoded.
        max_texts: Train on a random choice of that many texts; None for all of them.
        seed: Of that choice. Without it the same texts always give the same model.

    Raises:
        OptionError: no text is left, `kind` is not known, or the texts cannot fill `vocab_size` or need more.
    """
    import sentencepiece

    if kind not in get_args(Kind):
        raise OptionError(f"tokenizer kind {kind!r} is not known; choose one of {', '.join(get_args(Kind))}")
    if vocab_size < 2:
        raise OptionError(f"vocab_size {vocab_size} is too small; a tokenizer needs at least 2 pieces")
    lines = [text.strip() for text in texts if text.strip()]
    if not lines:
        raise OptionError("there is no text to train a tokenizer on: every transcript is empty")
    if max_texts is not None and len(lines) > max_texts:
        lines = random.Random(seed).sample(lines, max_texts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            user_defined_symbols=list(specials),
            character_coverage=character_coverage,
            bos_id=-1,
            eos_id=-1,
            hard_vocab_limit=kind != "char",
            normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
            max_sentence_length=max(4192, *(len(line.encode()) for line in lines)),
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise OptionError(_explain(str(error), vocab_size, kind, lines)) from error
    return SentencePieceTokenizer(model.getvalue())


def _explain(message: str, vocab_size: int, kind: str, lines: Sequence[str]) -> str:
    amount = f"{len(lines)} texts with {len(set(''.join(lines)))} different characters"
    most = re.search(r"value <= (\d+)", message)
    if most:
        return (
            f"vocab_size {vocab_size} is too large for {amount}: they give at most {most[1]} {kind} pieces; "
            f"choose a smaller vocab_size or more text"
        )
    least = re.search(r"required_chars\. (\d+) vs (\d+)", message)
    if least:
        return (
            f"vocab_size {vocab_size} is too small for {amount}: the characters and special pieces alone "
            f"need {least[2]}; choose a larger vocab_size or a smaller character_coverage"
        )
    return f"SentencePiece could not train {vocab_size} {kind} pieces on {amount}: {message}"
