"""The `tokenizer` section of a training: which pieces a model predicts, and how they come to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from aronnax.collections.asr.finetune import extend_tokenizer, replace_tokenizer
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.data import DataConfig, InputConfig
from aronnax.collections.common.text import (
    CharacterTokenizer,
    Tokenizer,
    extend,
    read_tokenizer,
    train_sentencepiece,
)
from aronnax.collections.common.text.prompts import (
    CanaryTokenizer,
    first_generation,
    second_generation,
    train_canary_tokenizer,
)
from aronnax.collections.common.text.training import Kind
from aronnax.core.errors import ConfigError, ManifestError

FOLDER = "tokenizer"
"""Where below `output` a tokenizer made for a run is kept, so that the run can go on with the same one."""


@dataclass(frozen=True)
class TokenizerSection:
    """From scratch, `path` or `kind` is needed; fine-tuning otherwise keeps the old one."""

    path: str | None = None
    """An existing tokenizer: a folder with `tokenizer.yaml` or `tokenizer.model`, or a SentencePiece file."""
    kind: Literal["bpe", "unigram", "char", "characters", "canary", "canary_aggregate"] | None = None
    """Train one on the training transcripts: SentencePiece BPE, unigram or char, or plain characters. For prompted
    models: `canary` is one SentencePiece model with the special tokens among its pieces, `canary_aggregate` one for
    each language beside a block of special tokens."""
    vocab_size: int = 1024
    """Pieces to train: in all, or for each language of a `canary_aggregate`."""
    pieces: Literal["bpe", "unigram", "char"] = "bpe"
    """Kind of the SentencePiece models of a `canary` tokenizer."""
    languages: tuple[str, ...] = ()
    """Languages a `canary` tokenizer has tokens for, in order; those of the training data's slots where not given."""
    frames: int = 0
    """Time marks `<|0|>`, `<|1|>`, ... of a `canary` tokenizer, one an encoder frame; 900 in the published ones."""
    published_layout: bool = False
    """Lay out the special tokens of a `canary` tokenizer as the published models do: for `canary2` all ISO languages,
    900 time marks, 16 speakers, in all 1152."""
    specials: tuple[str, ...] = ()
    """Further special tokens of a `canary` tokenizer, such as `<|custom|>`."""
    lower: bool = False
    """Lower-case the texts of a trained SentencePiece model."""
    add: tuple[str, ...] = ()
    """Fine-tuning: pieces to add to the checkpoint's tokenizer; the rows of its old pieces are kept."""
    add_count: int = 0
    """Fine-tuning: how many more pieces to learn from the training transcripts and add."""
    language: str | None = None
    """The part of an aggregate tokenizer that `add` and `add_count` extend."""

    def __post_init__(self) -> None:
        if self.path and self.kind:
            raise ConfigError("tokenizer.path and tokenizer.kind exclude each other: read one or train one")
        if (self.path or self.kind) and self.extends:
            raise ConfigError(
                "tokenizer.add and tokenizer.add_count extend the checkpoint's own tokenizer, while "
                "tokenizer.path and tokenizer.kind replace it: choose one way"
            )

    @property
    def extends(self) -> bool:
        """Whether pieces are added to the checkpoint's tokenizer."""
        return bool(self.add) or self.add_count > 0


def choose_tokenizer(
    section: TokenizerSection,
    data: DataConfig,
    output: Path,
    *,
    resuming: bool = False,
    prompt_format: str = "canary2",
) -> Tokenizer:
    """The tokenizer `path` names, or one trained on the transcripts, which is then kept below `output`.

    `prompt_format` decides which special tokens a `canary` tokenizer has.
    """
    if resuming and (output / FOLDER).is_dir():
        return read_tokenizer(output / FOLDER, "tokenizer")
    if section.path is not None:
        return read_tokenizer(Path(section.path), "tokenizer.path")
    if section.kind is None:
        raise ConfigError(
            "a model from scratch needs a tokenizer: set tokenizer.path, or tokenizer.kind to train one"
        )
    tokenizer: Tokenizer
    if section.kind in ("canary", "canary_aggregate"):
        tokenizer = _prompted(section, data, prompt_format)
    elif section.kind == "characters":
        tokenizer = CharacterTokenizer(sorted({char for text in transcripts(data) for char in text}))
    else:
        kind = cast(Kind, section.kind)
        tokenizer = train_sentencepiece(transcripts(data), section.vocab_size, kind, lower=section.lower)
    write_tokenizer(tokenizer, output / FOLDER)
    return tokenizer


def _prompted(section: TokenizerSection, data: DataConfig, prompt_format: str) -> CanaryTokenizer:
    """A tokenizer with special tokens, its texts sorted by the language they are in."""
    from aronnax.collections.common.data.filters import cut_place
    from aronnax.collections.common.data.slots import cut_slots

    texts: dict[str, list[str]] = {}
    spoken: dict[str, None] = {}
    for cut, text in _texts(data):
        slots = cut_slots(cut)
        language = slots.get("target_lang") or slots.get("source_lang")
        if language is None:
            raise ConfigError(
                f"{cut_place(cut)}: the field target_lang is missing, and tokenizer.kind {section.kind} needs it: "
                "write it on the manifest's lines, or once for all as `slots` of the input"
            )
        texts.setdefault(language, []).append(text)
        spoken[slots.get("source_lang") or language] = None
    languages = section.languages or tuple(dict.fromkeys((*texts, *spoken)))
    unlisted = [language for language in (*texts, *spoken) if language not in languages]
    if unlisted:
        raise ConfigError(
            f"tokenizer.languages has {', '.join(languages)}, and the training data also {unlisted[0]}"
        )
    if prompt_format == "canary":
        tokens = first_generation(languages, spare=16 if section.published_layout else 0)
    elif section.published_layout:
        tokens = second_generation()
    else:
        tokens = second_generation(languages, frames=section.frames, speakers=0, spare=0)
    tokens += [token for token in section.specials if token not in tokens]
    if section.kind == "canary":
        everything = [text for group in texts.values() for text in group]
        return train_canary_tokenizer(everything, section.vocab_size, tokens, section.pieces)
    ordered = {language: texts[language] for language in languages if language in texts}
    return train_canary_tokenizer(ordered, section.vocab_size, tokens, section.pieces)


def with_tokenizer(
    model: SpeechRecognizer,
    section: TokenizerSection,
    data: DataConfig,
    output: Path,
    *,
    resuming: bool = False,
    say: Callable[[str], None] = print,
) -> SpeechRecognizer:
    """A loaded model with its tokenizer kept, extended or replaced as the section asks."""
    if section.path or section.kind:
        form = getattr(model.config, "prompt_format", "canary2")
        tokenizer = choose_tokenizer(section, data, output, resuming=resuming, prompt_format=form)
        say(f"tokenizer replaced: {tokenizer.vocab_size} pieces, their rows start afresh")
        return replace_tokenizer(model, tokenizer)
    if not section.extends:
        return model
    if model.tokenizer is None:
        raise ConfigError("tokenizer.add: the checkpoint has no tokenizer to extend")
    if resuming and (output / FOLDER).is_dir():
        # The rows come from the checkpoint of the run; only their number matters here.
        return replace_tokenizer(model, read_tokenizer(output / FOLDER, "tokenizer"))
    texts: Iterator[str] = transcripts(data) if section.add_count else iter(())
    inner = model.tokenizer.inner if isinstance(model.tokenizer, CanaryTokenizer) else model.tokenizer
    extended, rows = extend(
        inner, section.add, texts=texts, count=section.add_count, language=section.language
    )
    write_tokenizer(extended, output / FOLDER)
    added = rows.count(-1)
    say(f"tokenizer extended by {added} pieces to {len(rows)}; the old {len(rows) - added} keep their rows")
    return extend_tokenizer(model, extended, rows)


def transcripts(data: DataConfig) -> Iterator[str]:
    """The texts of the training inputs, each once, whatever their weights."""
    for _, text in _texts(data):
        yield text


def check_texts(data: DataConfig) -> None:
    """Raises ManifestError when no training recording has a text; reads no further than to the first that has."""
    next(_texts(data))


def _texts(data: DataConfig) -> Iterator[tuple[Any, str]]:
    """The training cuts that have a text, each once, whatever their weights.

    Raises ManifestError for a line without the field, and at the end if there was no text at all.
    """
    from aronnax.collections.common.data.filters import cut_text
    from aronnax.collections.common.data.report import Dropped
    from aronnax.collections.common.data.sources import Inputs

    inputs = tuple(_unweighted(item) for item in data.inputs)
    dropped, found = Dropped(), False
    for cut in Inputs(inputs, dropped, shuffle=False, seed=0, required=("text",)):
        text = cut_text(cut)
        if text:
            found = True
            yield cut, text
    if not found:
        names = ", ".join(_paths(inputs))
        if dropped.count:
            raise ManifestError(f"{names}: no recording with a text can be read: {dropped}")
        raise ManifestError(f"no line of {names} has a text: each must hold what is said in the field `text`")


def _paths(inputs: tuple[InputConfig, ...]) -> Iterator[str]:
    for item in inputs:
        yield from [item.path] if item.path else _paths(item.inputs)


def _unweighted(item: InputConfig) -> InputConfig:
    return replace(item, weight=None, inputs=tuple(_unweighted(inner) for inner in item.inputs))


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the files `read_tokenizer` reads."""
    for name, content in tokenizer.assets().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_bytes(content)
        part.replace(file)
