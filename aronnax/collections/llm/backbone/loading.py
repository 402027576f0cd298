"""A language model of transformers from a folder or the hub: safetensors only, and no code of anybody's.

Beside the model come the files of its tokenizer, which are checked against the vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aronnax.collections.llm.backbone.config import BackboneConfig
from aronnax.core.errors import CheckpointError
from aronnax.core.hub import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def folder_of(name: str | Path) -> Path:
    """The local folder of a model by name or path.

    Raises:
        HubError: nothing is there under this name.
        CheckpointError: what is there is no folder of transformers.
    """
    folder = resolve(str(name))
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: a language model is a folder as transformers' save_pretrained writes it"
        )
    return folder


def read_config(folder: Path) -> BackboneConfig:
    """The configuration in a folder; ConfigError or CheckpointError if it does not serve."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not JSON: {error}") from error
    config = BackboneConfig.of(settings)
    config.to_transformers()
    return config


def read_model(folder: Path, config: BackboneConfig, dtype: torch.dtype | None) -> PreTrainedModel:
    """The module with the folder's weights, as `dtype`; None keeps the stored type.

    Raises CheckpointError if weights are missing or do not fit the configuration.
    """
    if not any(folder.glob("model*.safetensors")):
        others = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        hint = f", only {others}, which may hold code: convert it with transformers' save_pretrained"
        raise CheckpointError(f"{folder} has no model.safetensors" + (hint if others else ""))
    from transformers import AutoModelForCausalLM

    try:
        model: Any
        found: Any
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config.to_transformers(),
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )  # type: ignore[misc]
    except Exception as error:  # safetensors and transformers raise classes of their own
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder} does not load as {config.architecture}: {reason}") from error
    wrong = [*found["missing_keys"], *(str(one[0]) for one in found.get("mismatched_keys") or ())]
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit its config.json: {len(wrong)} weights are missing or of another shape, "
            f"{sorted(wrong)[0]} among them"
        )
    loaded: PreTrainedModel = model
    return loaded


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files, name to content."""
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def largest_id(files: dict[str, bytes]) -> int | None:
    """The largest token id a tokenizer's files know; None if they do not tell."""
    if "tokenizer.json" in files:
        said: dict[str, Any] = json.loads(files["tokenizer.json"])
        vocabulary = said["model"].get("vocab", {})
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        ids += [token["id"] for token in said.get("added_tokens", [])]
        return max(ids, default=None)
    if "tokenizer.model" in files:
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(files["tokenizer.model"])
        return int(processor.GetPieceSize()) - 1
    if "vocab.json" in files:
        return max(json.loads(files["vocab.json"]).values(), default=None)
    return None


def check_vocabulary(files: dict[str, bytes], embedding: nn.Module, where: str) -> None:
    """Raise CheckpointError if the tokenizer knows a token that the model has no embedding for."""
    try:
        largest = largest_id(files)
    except Exception as error:
        raise CheckpointError(f"the tokenizer in {where} cannot be read: {error}") from error
    rows = embedding.weight.shape[0]  # type: ignore[index]
    if largest is not None and largest >= rows:
        raise CheckpointError(
            f"the tokenizer in {where} has token ids up to {largest} and the language model {rows} embeddings: "
            "they do not belong together"
        )
