"""A tokenizer from the files stored beside a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aronnax.collections.common.text.aggregate import AggregateTokenizer
from aronnax.collections.common.text.characters import CharacterTokenizer
from aronnax.collections.common.text.sentencepiece_tokenizer import SentencePieceTokenizer
from aronnax.collections.common.text.tokenizer import Tokenizer
from aronnax.collections.common.text.wordpiece import WordPieceTokenizer, read_vocabulary
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.hub import bundled, resolve
from aronnax.core.safe_yaml import parse_mapping

KINDS = ("sentencepiece", "wordpiece", "characters", "aggregate")


def read_tokenizer(path: Path, option: str) -> Tokenizer:
    """The tokenizer in a folder, a model's for instance, or in a bare SentencePiece file.

    Raises ConfigError, in which `option` says where the path was written, if there is none.
    """
    if (path / "tokenizer.yaml").is_file():
        files = [file for file in path.rglob("*") if file.is_file() and file.suffix != ".safetensors"]
        return tokenizer_from_assets(
            {file.relative_to(path).as_posix(): file.read_bytes() for file in files}, str(path)
        )
    file = path / "tokenizer.model" if path.is_dir() else path
    if file.is_file():
        assets = {"tokenizer.yaml": b"type: sentencepiece\n", "tokenizer.model": file.read_bytes()}
        return tokenizer_from_assets(assets, str(file))
    name = str(path)
    hint = f" (the bundled model of that name is {resolve(name)})" if name in bundled() else ""
    raise ConfigError(
        f"{option} {path}: there is no tokenizer here{hint}; give a folder that holds tokenizer.yaml or"
        " tokenizer.model, such as a model's, or a SentencePiece file"
    )


def tokenizer_from_assets(assets: Mapping[str, bytes], where: str = "tokenizer assets") -> Tokenizer:
    """The tokenizer that `Tokenizer.assets()` described; other files in `assets` are not looked at.

    `tokenizer.yaml` says the `type`: sentencepiece (`tokenizer.model`), wordpiece (`vocab.txt`, `unknown`),
    characters (`labels`), aggregate (`languages`, each language's files under `<language>/`).

    Raises:
        CheckpointError: a file is missing or damaged, or the type is not known; `where` begins the message.
    """
    settings = _settings(assets, where)
    kind = settings.get("type")
    if kind == "sentencepiece":
        return SentencePieceTokenizer(_file(assets, "tokenizer.model", where), f"{where}: tokenizer.model")
    if kind == "wordpiece":
        pieces = read_vocabulary(_file(assets, "vocab.txt", where))
        return WordPieceTokenizer(pieces, unknown=str(settings.get("unknown", "[UNK]")))
    if kind == "characters":
        return CharacterTokenizer(_strings(settings, "labels", where))
    if kind == "aggregate":
        return AggregateTokenizer(
            {
                language: tokenizer_from_assets(_under(assets, language), f"{where}: {language}")
                for language in _strings(settings, "languages", where)
            }
        )
    raise CheckpointError(f"{where}: tokenizer.yaml has type {kind!r}; known are {', '.join(KINDS)}")


def _settings(assets: Mapping[str, bytes], where: str) -> dict[str, Any]:
    try:
        return parse_mapping(_file(assets, "tokenizer.yaml", where), f"{where}: tokenizer.yaml")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _file(assets: Mapping[str, bytes], name: str, where: str) -> bytes:
    if name not in assets:
        raise CheckpointError(f"{where}: the file {name} is missing")
    return assets[name]


def _strings(settings: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = settings.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise CheckpointError(f"{where}: tokenizer.yaml needs `{key}`, a list of strings")
    return values


def _under(assets: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): data for name, data in assets.items() if name.startswith(prefix)}
