"""Which class serves which checkpoint, as strings: nothing is imported before a checkpoint asks for it.

This table is the only way from a name in a file to code; a name that is not in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from aronnax.core.config import nearest
from aronnax.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from aronnax.core.model import Model
    from aronnax.core.parts import Parts

_ASR = "aronnax.collections.asr"
_DIARIZATION = "aronnax.collections.diarization"
_LLM = "aronnax.collections.llm"
_SPEECHLM = "aronnax.collections.speechlm"

_MODELS = {
    "ctc": (f"{_ASR}.ctc.model", "CTCModel"),
    "transducer": (f"{_ASR}.transducer.model", "TransducerModel"),
    "hybrid": (f"{_ASR}.hybrid.model", "HybridModel"),
    "sortformer": (f"{_DIARIZATION}.sortformer.model", "SortformerModel"),
    "canary": (f"{_ASR}.canary.model", "CanaryModel"),
    "multispeaker": (f"{_DIARIZATION}.multispeaker.model", "MultispeakerModel"),
    "causal_lm": (f"{_LLM}.model", "LanguageModel"),
    "salm": (f"{_SPEECHLM}.salm.model", "SALM"),
    "bestow": (f"{_SPEECHLM}.bestow.model", "BESTOW"),
    "voicetextblender": (f"{_SPEECHLM}.voicetextblender.model", "VoiceTextBlender"),
}

# model_type -> the module whose `load_config` and `train` train it.
_TRAINING = {
    "ctc": f"{_ASR}.training",
    "transducer": f"{_ASR}.training",
    "hybrid": f"{_ASR}.training",
    "canary": f"{_ASR}.training",
    "sortformer": f"{_DIARIZATION}.training",
    "multispeaker": f"{_DIARIZATION}.multispeaker.training",
    "causal_lm": f"{_LLM}.training",
    "salm": f"{_SPEECHLM}.training",
    "bestow": f"{_SPEECHLM}.training",
    "voicetextblender": f"{_SPEECHLM}.training",
}

# NeMo class name -> the module with our translation of its configuration.
_NEMO = {
    "EncDecCTCModel": f"{_ASR}.ctc.nemo",
    "EncDecCTCModelBPE": f"{_ASR}.ctc.nemo",
    "EncDecRNNTModel": f"{_ASR}.transducer.nemo",
    "EncDecRNNTBPEModel": f"{_ASR}.transducer.nemo",
    "EncDecHybridRNNTCTCModel": f"{_ASR}.hybrid.nemo",
    "EncDecHybridRNNTCTCBPEModel": f"{_ASR}.hybrid.nemo",
    "EncDecMultiTaskModel": f"{_ASR}.canary.nemo",
    "SortformerEncLabelModel": f"{_DIARIZATION}.sortformer.nemo",
}
_NEMO_WRITERS = {
    "ctc": f"{_ASR}.ctc.nemo",
    "transducer": f"{_ASR}.transducer.nemo",
    "hybrid": f"{_ASR}.hybrid.nemo",
    "canary": f"{_ASR}.canary.nemo",
    "sortformer": f"{_DIARIZATION}.sortformer.nemo",
}
_NOT_YET = {
    "EncDecHybridRNNTCTCBPEModelWithPrompt": "a prompted hybrid transducer",
    "EncDecRNNTBPEModelWithPrompt": "a prompted transducer",
    "EncDecSpeakerLabelModel": "a speaker or language recogniser",
    "EncDecClassificationModel": "an audio classifier",
    "EncDecFrameClassificationModel": "a voice-activity detector",
}
NEMO_SPEECHLM = "nemo_speechlm"
"""The `model_type` of NeMo's speech language models, which lie in folders like those of transformers."""

_TRANSFORMERS = {
    "parakeet_ctc": f"{_ASR}.transformers_layout",
    "parakeet_rnnt": f"{_ASR}.transformers_layout",
    "parakeet_tdt": f"{_ASR}.transformers_layout",
    "canary": f"{_ASR}.canary.transformers_layout",
    NEMO_SPEECHLM: f"{_SPEECHLM}.salm.nemo",
}


class ToConfig(Protocol):
    """Makes our config from NeMo's configuration."""

    def __call__(self, nemo: Mapping[str, Any]) -> Any: ...


class FromConfig(Protocol):
    """Makes NeMo's configuration from our config and assets."""

    def __call__(self, config: Any, assets: Mapping[str, bytes]) -> dict[str, Any]: ...


class ReadFile(Protocol):
    """Reads a file that a configuration refers to."""

    def __call__(self, reference: str) -> bytes: ...


class ToAssets(Protocol):
    """Makes our assets from NeMo's configuration and the files it refers to."""

    def __call__(self, nemo: Mapping[str, Any], read: ReadFile) -> dict[str, bytes]: ...


class FromAssets(Protocol):
    """Makes an archive's files from our assets."""

    def __call__(self, assets: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]: ...


def _same_name(name: str) -> str | None:
    return name


class Rename(Protocol):
    """Gives our name of an archive's tensor, or None to leave it out."""

    def __call__(self, name: str) -> str | None: ...


@dataclass(frozen=True)
class NemoFamily:
    """The translation between one NeMo class and one of our models, each way."""

    model_type: str
    config_from_nemo: ToConfig
    """NeMo's configuration -> our config; ConfigError names an option that is not supported."""
    config_to_nemo: FromConfig
    """Our config and assets -> NeMo's configuration, its `target` included."""
    assets_from_nemo: ToAssets
    """NeMo's configuration and a reader of the files it refers to -> our assets."""
    assets_to_nemo: FromAssets
    """Our assets -> {dotted configuration key: (file name, content)} of the archive."""
    rename: Rename = field(default=_same_name)
    """Tensor name in the archive -> ours, or None to leave the tensor out."""
    companions: Mapping[str, str] = field(default_factory=dict)
    """Second models an archive may hold: the beginning of their files' names -> our field, module and folder."""


class Layout(Protocol):
    """A module that reads a checkpoint folder of another library."""

    def read(self, folder: Any) -> Parts:
        """Open the folder; CheckpointError if it is damaged, ConfigError for what is not supported."""


def model_class(model_type: str) -> type[Model]:
    """The class of a `model_type`; CheckpointError if there is none."""
    if model_type not in _MODELS:
        raise CheckpointError(f"model_type {model_type!r} is not known; {nearest(str(model_type), _MODELS)}")
    module, name = _MODELS[model_type]
    found: type[Model] = getattr(import_module(module), name)
    return found


def register(model_type: str, module: str, name: str) -> None:
    """Make `load` know one more model: the class `name` of the importable `module`."""
    _MODELS[model_type] = (module, name)


class Training(Protocol):
    """A module that trains the models of a collection: reads its YAML and runs it."""

    def load_config(self, path: Any, overrides: Any = ()) -> Any:
        """The typed configuration of a YAML file with `key=value` changes on top."""

    def train(self, config: Any) -> Any:
        """Train what the configuration describes."""


def training(model_type: str) -> Training:
    """The module that trains models of that type; ConfigError if none does."""
    if model_type not in _TRAINING:
        raise ConfigError(f"model.type is {model_type!r}; {nearest(model_type, _TRAINING)}")
    module: Any = import_module(_TRAINING[model_type])
    found: Training = module
    return found


def nemo_family(target: str) -> NemoFamily:
    """The translation for a NeMo `target`, by its class name alone; the path in it is never imported."""
    name = str(target).rpartition(".")[2]
    if name in _NOT_YET:
        raise CheckpointError(
            f"this checkpoint is {_NOT_YET[name]} (NeMo class {name}), a family aronnax does not load yet; "
            f"it loads {', '.join(sorted(_NEMO))}"
        )
    if name not in _NEMO:
        raise CheckpointError(f"NeMo class {name!r} is not known; {nearest(name, _NEMO)}")
    family: NemoFamily = import_module(_NEMO[name]).FAMILY
    return family


def nemo_writer(model_type: str) -> NemoFamily:
    """The translation used to write a model of ours as `.nemo`."""
    if model_type not in _NEMO_WRITERS:
        raise CheckpointError(
            f"a {model_type!r} model has no counterpart in NeMo and cannot be saved as .nemo"
        )
    family: NemoFamily = import_module(_NEMO_WRITERS[model_type]).FAMILY
    return family


def layout(transformers_type: str) -> Layout:
    """The reader of a transformers checkpoint by the `model_type` of its config.json."""
    if transformers_type in _TRANSFORMERS:
        module: Any = import_module(_TRANSFORMERS[transformers_type])
    else:
        module = import_module(f"{_LLM}.transformers_layout")
        if not module.serves(transformers_type):
            raise CheckpointError(
                f"transformers model_type {transformers_type!r} is not one aronnax loads; "
                f"{nearest(str(transformers_type), _TRANSFORMERS)}; nor is it a causal language model"
            )
    reader: Layout = module
    return reader
