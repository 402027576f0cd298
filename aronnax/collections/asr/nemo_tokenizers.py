"""The tokenizer of a NeMo archive as our assets, and back.

NeMo's `tokenizer` section refers to files in the archive: SentencePiece (`bpe`), WordPiece (`wpe`) or one of these
a language (`agg`). A character model has no such section, only a list of labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aronnax.collections.common.text import Tokenizer, tokenizer_from_assets
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.registry import ReadFile
from aronnax.core.safe_yaml import dump_yaml, parse_mapping

_SETTINGS = "tokenizer.yaml"
# Wrappers around the same files whose only addition is the prompt tokens of encoder-decoder models.
_PLAIN_WRAPPERS = ("CanaryBPETokenizer", "SentencePieceTokenizer", "AggregateTokenizer", "CanaryTokenizer")


def assets_from_nemo(nemo: Mapping[str, Any], read: ReadFile) -> dict[str, bytes]:
    """The assets of `tokenizer_from_assets` for a NeMo configuration."""
    section = nemo.get("tokenizer")
    if isinstance(section, Mapping):
        custom = section.get("custom_tokenizer")
        wrapper = str(custom.get("_target_", "")).rpartition(".")[2] if isinstance(custom, Mapping) else None
        if wrapper is not None and wrapper not in _PLAIN_WRAPPERS:
            raise ConfigError(f"tokenizer.custom_tokenizer {wrapper!r} is not supported")
        if str(section.get("type")).lower() == "agg":
            return _aggregate(section, read)
        return _one(section, "tokenizer", read)
    labels = _labels(nemo)
    return {_SETTINGS: dump_yaml({"type": "characters", "labels": labels}).encode()}


def tokenizer_section(assets: Mapping[str, bytes]) -> dict[str, Any] | None:
    """NeMo's `tokenizer` section for our assets, without the file references; None for characters."""
    settings = _settings(assets)
    if settings["type"] == "characters":
        return None
    if settings["type"] == "aggregate":
        languages = {name: _one_section(_under(assets, name)) for name in settings["languages"]}
        return {"type": "agg", "dir": None, "langs": languages}
    return _one_section(assets)


def files_to_nemo(assets: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """The files of the archive: {dotted key that refers to it: (name, content)}."""
    settings = _settings(assets)
    if settings["type"] == "characters":
        return {}
    if settings["type"] == "aggregate":
        return {
            f"tokenizer.langs.{name}.{key}": file
            for name in settings["languages"]
            for key, file in _files(_under(assets, name)).items()
        }
    return {f"tokenizer.{key}": file for key, file in _files(assets).items()}


def tokenizer_of(assets: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer of a model that is about to be saved for NeMo."""
    if _SETTINGS not in assets:
        raise CheckpointError("a model without a tokenizer cannot be saved as .nemo")
    return tokenizer_from_assets(assets)


def _aggregate(section: Mapping[str, Any], read: ReadFile) -> dict[str, bytes]:
    languages = section.get("langs")
    if not isinstance(languages, Mapping) or not languages:
        raise ConfigError("tokenizer.langs names no languages")
    for name in languages:
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"tokenizer.langs: {name!r} is not the name of a language")
    assets = {_SETTINGS: dump_yaml({"type": "aggregate", "languages": list(languages)}).encode()}
    for name, part in languages.items():
        if not isinstance(part, Mapping):
            raise ConfigError(f"tokenizer.langs.{name} is not a section")
        files = _one(part, f"tokenizer.langs.{name}", read)
        assets |= {f"{name}/{file}": content for file, content in files.items()}
    return assets


def _one(section: Mapping[str, Any], where: str, read: ReadFile) -> dict[str, bytes]:
    kind = str(section.get("type")).lower()
    if kind == "bpe":
        model = read(str(section.get("model_path") or "tokenizer.model"))
        return {_SETTINGS: b"type: sentencepiece\n", "tokenizer.model": model}
    if kind == "wpe":
        options = section.get("hf_kwargs")
        unknown = options.get("unk_token") if isinstance(options, Mapping) else None
        settings = {"type": "wordpiece", "unknown": str(unknown or "[UNK]")}
        vocabulary = read(str(section.get("vocab_path") or "vocab.txt"))
        return {_SETTINGS: dump_yaml(settings).encode(), "vocab.txt": vocabulary}
    raise ConfigError(f"{where}.type is {section.get('type')!r}; supported are bpe, wpe and agg")


def _labels(nemo: Mapping[str, Any]) -> list[str]:
    """The characters, in the order of their ids, wherever this family keeps them."""
    decoder, joint = nemo.get("decoder"), nemo.get("joint")
    places = (
        joint.get("vocabulary") if isinstance(joint, Mapping) else None,
        decoder.get("vocabulary") if isinstance(decoder, Mapping) else None,
        nemo.get("labels"),
    )
    for labels in places:
        if isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels):
            return labels
    raise ConfigError("the NeMo configuration has neither a `tokenizer` section nor `labels`")


def _one_section(assets: Mapping[str, bytes]) -> dict[str, Any]:
    settings = _settings(assets)
    if settings["type"] == "sentencepiece":
        return {"dir": "", "type": "bpe"}
    if settings["type"] == "wordpiece":
        return {"dir": "", "type": "wpe", "hf_kwargs": {"unk_token": settings.get("unknown", "[UNK]")}}
    raise CheckpointError(f"NeMo has no {settings['type']} tokenizer inside an aggregate one")


def _files(assets: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    if _settings(assets)["type"] == "wordpiece":
        return {"vocab_path": ("vocab.txt", assets["vocab.txt"])}
    tokenizer = tokenizer_from_assets(assets)
    # NeMo asks for a list in WordPiece's spelling beside the model and reads only the model.
    lines = [
        piece.removeprefix("\u2581") if piece.startswith("\u2581") else f"##{piece}"
        for piece in tokenizer.vocabulary
        if piece != "<unk>"
    ]
    return {
        "model_path": ("tokenizer.model", assets["tokenizer.model"]),
        "vocab_path": ("vocab.txt", "".join(f"{line}\n" for line in lines).encode()),
        "spe_tokenizer_vocab": (
            "tokenizer.vocab",
            "".join(f"{piece}\t{-index}\n" for index, piece in enumerate(tokenizer.vocabulary)).encode(),
        ),
    }


def _settings(assets: Mapping[str, bytes]) -> dict[str, Any]:
    if _SETTINGS not in assets:
        raise CheckpointError("a model without a tokenizer cannot be saved as .nemo")
    return parse_mapping(assets[_SETTINGS], _SETTINGS)


def _under(assets: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): data for name, data in assets.items() if name.startswith(prefix)}
