"""SALM checkpoints of NeMo's speechlm2, such as nvidia/canary-qwen-2.5b: a config.json and safetensors.

The language model's embeddings stand at the top level there, its low-rank layers lie inside. Its own configuration
and tokenizer are either in the folder (`llm_backbone/`, tokenizer files) or where `pretrained_llm` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aronnax.collections.asr.nemo import encoder_from_nemo, preprocessor_from_nemo, spec_augment_from_nemo
from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.llm.backbone.loading import TOKENIZER_FILES, read_tokenizer
from aronnax.collections.llm.chat.tokenizer import AUDIO_TOKEN, FILES, TOKENIZER
from aronnax.collections.llm.lora.config import LoRA
from aronnax.collections.speechlm.model import SpeechLMConfig
from aronnax.collections.speechlm.perception import AdapterConfig, PerceptionConfig
from aronnax.core.checkpoint import describe_types, read_safetensors
from aronnax.core.errors import CheckpointError, ConfigError
from aronnax.core.parts import Parts

OWN_LLM = "llm_backbone"
"""Folder that holds the language model's configuration where it is stored beside the weights."""
# Where the language model's tensors stand there, and here; the first that fits counts.
_RENAMED = (
    ("embed_tokens.", "llm.causal.model.embed_tokens."),
    ("llm.base_model.model.", "llm.causal."),
    ("llm.", "llm.causal."),
)


def read(folder: Path) -> Parts:
    """Open a folder that NeMo's SALM wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or the language model's own files are nowhere to be found.
        ConfigError: an option is not supported.
    """
    nemo = _read_json(folder / "config.json")
    llm = folder / OWN_LLM if (folder / OWN_LLM / "config.json").is_file() else None
    files = read_tokenizer(folder)
    if llm is None or TOKENIZER not in files:
        elsewhere = _language_model(folder, nemo)
        llm = llm or elsewhere
        files = files if TOKENIZER in files else read_tokenizer(elsewhere)
    if TOKENIZER not in files:
        raise CheckpointError(f"{folder}: neither it nor {nemo.get('pretrained_llm')} has a {TOKENIZER}")
    config = config_from_nemo(nemo, _read_json(llm / "config.json"))
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= read_safetensors(file)[0]
    if not tensors:
        raise CheckpointError(f"{folder} has no model.safetensors: the checkpoint has no weights")
    return Parts(
        where=str(folder),
        model_type="salm",
        config=config,
        assets={name: content for name, content in files.items() if name in FILES},
        tensors={rename(name): tensor for name, tensor in tensors.items()},
        details={
            "format": "NeMo speechlm2 folder",
            "language model": str(nemo.get("pretrained_llm")),
            "stored as": describe_types(tensors),
        },
    )


def config_from_nemo(nemo: Mapping[str, Any], llm: Mapping[str, Any]) -> SpeechLMConfig:
    """A SALM's config.json and that of its language model -> our config."""
    perception = nemo.get("perception")
    if not isinstance(perception, Mapping):
        raise ConfigError("the NeMo configuration has no section 'perception'")
    lora = nemo.get("lora")
    return SpeechLMConfig(
        backbone=BackboneConfig.of(llm),
        perception=PerceptionConfig(
            preprocessor_from_nemo(perception),
            encoder_from_nemo(perception),
            spec_augment_from_nemo(perception),
            adapter_from_nemo(perception),
        ),
        lora=None if not lora else LoRA.from_peft({**lora, "peft_type": "LORA"}, "lora"),
        prompt_format=str(nemo.get("prompt_format", "chat_template")),
        audio_token=str(nemo.get("audio_locator_tag", AUDIO_TOKEN)),
        encoder_chunk_seconds=nemo.get("encoder_chunk_size_seconds"),
    )


def adapter_from_nemo(perception: Mapping[str, Any]) -> AdapterConfig:
    """`perception.modality_adapter` of a NeMo configuration -> AdapterConfig."""
    section = perception.get("modality_adapter")
    if not isinstance(section, Mapping):
        raise ConfigError("the NeMo configuration has no section 'perception.modality_adapter'")
    kind = str(section.get("_target_", "")).rpartition(".")[2]
    if "d_model" not in section or "output_dim" in section:
        raise ConfigError(
            "perception.modality_adapter without d_model, or with an output_dim, has no projection of its own: "
            "that is not supported"
        )
    if kind == "IdentityConnector":
        return AdapterConfig()
    if kind == "ConformerEncoder":
        return AdapterConfig("conformer", conformer=encoder_from_nemo({"encoder": section}))
    raise ConfigError(
        f"perception.modality_adapter._target_ is {kind}, which is not supported; IdentityConnector and "
        "ConformerEncoder are"
    )


def rename(name: str) -> str:
    """Our name of a tensor of the file."""
    for theirs, ours in _RENAMED:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _language_model(folder: Path, nemo: Mapping[str, Any]) -> Path:
    """The folder with the language model's configuration and tokenizer; its weights are not fetched."""
    name = nemo.get("pretrained_llm")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder / 'config.json'}: pretrained_llm does not name the language model")
    for place in (Path(name).expanduser(), folder / name):
        if (place / "config.json").is_file():
            return place
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", *TOKENIZER_FILES]))
    except Exception as error:  # whatever HTTP library the hub's client uses raises its own
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{folder} lacks the configuration and tokenizer of its language model, {name}, which cannot be fetched "
            f"({reason}): put the config.json of {name} into {folder / OWN_LLM} and its tokenizer.json and "
            f"tokenizer_config.json into {folder}"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a mapping")
    return data
