"""What a backbone is built from: the architecture's name and its settings, without a name of a file or of code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Said by the architecture's name, by the checkpoint's own place and type, or by nobody: code is never fetched.
_LEFT_OUT = ("model_type", "architectures", "auto_map", "transformers_version", "dtype", "torch_dtype")


def _plain(value: Any) -> Any:
    """`value` without the way transformers writes infinity into JSON."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class BackboneConfig:
    """A causal language model of transformers."""

    architecture: str
    """Its `model_type` there: llama, qwen3, smollm3, nemotron_h, or any other decoder-only language model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its `config.json`, without names of files or code; what is left out has transformers' default."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> BackboneConfig:
        """From the content of a `config.json`."""
        architecture = settings.get("model_type")
        if not isinstance(architecture, str):
            raise ConfigError("config.json names no model_type: it is not a configuration of transformers")
        kept = {
            name: _plain(value)
            for name, value in settings.items()
            if name not in _LEFT_OUT and not name.startswith("_")
        }
        return cls(architecture, kept)

    def to_transformers(self) -> PreTrainedConfig:
        """The configuration object of transformers.

        Raises ConfigError if the architecture is unknown there or is no decoder-only language model.
        """
        try:
            from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
        except ImportError as error:
            raise MissingExtraError("transformers", "llm", "a language model") from error
        if self.architecture not in CONFIG_MAPPING:
            from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

            raise ConfigError(
                f"architecture {self.architecture!r} is unknown to the installed transformers; "
                f"{nearest(self.architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
            )
        if "quantization_config" in self.settings:
            raise ConfigError(
                "the language model is stored quantised, which is not supported: take the plain one"
            )
        try:
            config: PreTrainedConfig = CONFIG_MAPPING[self.architecture](**self.settings)
        except Exception as error:  # transformers validates with classes of its own
            raise ConfigError(f"settings of {self.architecture}: {error}") from error
        if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            kind = "an encoder-decoder" if config.is_encoder_decoder else "not a causal language model"
            raise ConfigError(
                f"architecture {self.architecture!r} is {kind}: a backbone must be a decoder-only language model"
            )
        return config

    def build(self) -> PreTrainedModel:
        """The module, with fresh weights of torch's default type."""
        import torch
        from transformers import AutoModelForCausalLM

        config = self.to_transformers()
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())
        return model
