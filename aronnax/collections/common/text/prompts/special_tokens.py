"""Blocks of special tokens for new models, laid out as those of the published ones.

`<unk>` is 0, then the tokens in order, and the mark of a word's beginning comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.prompts.tokenizer import SPECIALS, CanaryTokenizer
from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.collections.common.text.training import Kind, train_sentencepiece

_COMMON = ("nospeech", "pad", "endoftext", "startoftranscript", "pnc", "nopnc")
_CONTROLS = (
    *("startofcontext", "itn", "noitn", "timestamp", "notimestamp", "diarize", "nodiarize"),
    *("spkchange", "audioseparator"),
    *("emo:undefined", "emo:neutral", "emo:happy", "emo:sad", "emo:angry"),
    "unklang",
)
_ISO = (
    "ab aa af ak sq am ar an hy as av ae ay az bm ba eu be bn bi bs br bg my ca ch ce ny zh cu cv kw co "
    "cr hr cs da dv nl dz en eo et ee fo fj fi fr fy ff gd gl lg ka de el kl gn gu ht ha he hz hi ho hu "
    "is io ig id ia ie iu ik ga it ja jv kn kr ks kk km ki rw ky kv kg ko kj ku lo la lv li ln lt lu lb "
    "mk mg ms ml mt gv mi mr mh mn na nv nd nr ng ne no nb nn oc oj or om os pi ps fa pl pt pa qu ro rm "
    "rn ru se sm sg sa sc sr sn sd si sk sl so st es su sw ss sv tl ty tg ta tt te th bo ti to ts tn tr "
    "tk tw ug uk ur uz ve vi vo wa cy wo xh ii yi yo za zu"
)
ISO_LANGUAGES = tuple(_ISO.split())
"""ISO 639-1 in the order of the languages' English names, as the published second-generation models have them."""


def first_generation(languages: Sequence[str] = ("en", "es", "de", "fr"), spare: int = 16) -> list[str]:
    """Special tokens for the `canary` prompt; `spare` ones are kept for later use.

    >>> first_generation(["en"], spare=0)[6:]
    ['<|transcribe|>', '<|translate|>', '<|en|>']
    """
    names = (*_COMMON, "transcribe", "translate", *languages, *(f"spltoken{i}" for i in range(spare)))
    return [_token(name) for name in names]


def second_generation(
    languages: Sequence[str] = ISO_LANGUAGES, frames: int = 900, speakers: int = 16, spare: int = 30
) -> list[str]:
    """Special tokens for the `canary2` prompt.

    frames: time marks `<|0|>` ...; 0 for a model that does not write times. speakers: `<|spk0|>` ...
    A small model needs neither: `second_generation(["en", "de"], frames=0, speakers=0, spare=0)`.
    """
    names = (
        *(*_COMMON, *_CONTROLS, *languages),
        *map(str, range(frames)),
        *(f"spk{i}" for i in range(speakers)),
        *(f"spltoken{i}" for i in range(spare)),
    )
    return [_token(name) for name in names]


def build_special_tokenizer(tokens: Sequence[str]) -> SentencePieceTokenizer:
    """A SentencePiece model of special tokens only: the part `spl_tokens` of an aggregate."""
    return train_sentencepiece(tokens, len(tokens) + 2, "bpe", specials=tokens)


def train_canary_tokenizer(
    texts: Mapping[str, Iterable[str]] | Iterable[str],
    vocab_size: int,
    tokens: Sequence[str],
    kind: Kind = "bpe",
) -> CanaryTokenizer:
    """A tokenizer for a new prompted model.

    Args:
        texts: {language: transcripts} gives an aggregate with `vocab_size` pieces a language beside the special
            tokens; transcripts alone give one model of `vocab_size` pieces in all, special tokens among them.
        tokens: from `first_generation` or `second_generation`.

    Raises:
        OptionError: the texts cannot fill `vocab_size`, or need more.
    """
    if not isinstance(texts, Mapping):
        return CanaryTokenizer(train_sentencepiece(texts, vocab_size, kind, specials=tokens))
    parts = {language: train_sentencepiece(lines, vocab_size, kind) for language, lines in texts.items()}
    return CanaryTokenizer(AggregateTokenizer({SPECIALS: build_special_tokenizer(tokens), **parts}))


def _token(name: str) -> str:
    return "<pad>" if name == "pad" else f"<|{name}|>"
