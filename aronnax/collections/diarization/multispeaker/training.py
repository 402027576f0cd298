"""The training of multi-speaker recognition from one configuration; see `common.training.run` for what it writes.

It starts from a recogniser's checkpoint (`init_from`) and a diarizer's (`diarizer`). Sessions come from `data`
(Lhotse cuts with a supervision for each utterance: speaker, text, and word times where they are known), or from
`simulation`, made on the fly out of whole recordings of single speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.collections.asr.finetune import trainable_parts
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, Say, TrainResult, run
from aronnax.collections.diarization.multispeaker.model import MultispeakerConfig, MultispeakerModel
from aronnax.collections.diarization.multispeaker.vocabulary import with_speaker_tokens
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.training import BUFFER, PassesOfSessions, SimulationSection
from aronnax.core.config import from_dict, load_mapping
from aronnax.core.errors import ConfigError

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from aronnax.collections.diarization.multispeaker.task import MultispeakerTaskConfig

__all__ = ["TrainConfig", "TrainResult", "build_model", "load_config", "prepare", "train"]

MONITOR = "val/cpwer"


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The top keys of the YAML of a multi-speaker recogniser; `init_from` is a checkpoint, `model` has no parts."""

    diarizer: str | None = None
    """Checkpoint of the diarizer: a bundled name, a folder, a .nemo file, a hub id. Its weights become part of the
    model's checkpoint; without one, sessions are learned with who really speaks."""
    simulation: SimulationSection = field(default_factory=lambda: SimulationSection(whole_utterances=True))
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(monitor=MONITOR))


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `simulation.voices=x.jsonl`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included.
    """
    mapping = load_mapping(path, overrides)
    for name, defaults in (("trainer", {"monitor": MONITOR}), ("simulation", {"whole_utterances": True})):
        section = mapping.get(name) or {}
        if isinstance(section, Mapping):
            mapping = {**mapping, name: {**defaults, **section}}
    config = from_dict(TrainConfig, mapping, where="config")
    if not isinstance(config.init_from, str):
        raise ConfigError(
            "init_from is required: multi-speaker recognition starts from a recogniser's checkpoint"
        )
    if not config.simulation.whole_utterances:
        raise ConfigError("simulation.whole_utterances must stay true: a part of a recording has no text")
    _task_config(config)
    # The recogniser's own options come from its checkpoint; a stand-in lets the others be checked now.
    from_dict(MultispeakerConfig, {**_model_section(config), "recogniser": {"type": "ctc"}}, where="model")
    return config


def train(
    config: TrainConfig,
    say: Callable[[str], None] = print,
    *,
    train_cuts: Iterable[Cut] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> TrainResult:
    """Trains, or goes on with, the run the configuration describes; `say` gets a few lines for the user.

    `train_cuts` and `validation_cuts` (sets by name) are used in place of the configuration's sessions.
    """
    given = [train_cuts is not None, bool(config.data.train), config.simulation.voices is not None]
    if sum(given) != 1:
        raise ConfigError(
            "name one thing to train on: data.train (Lhotse cuts of sessions with speakers and texts) or"
            " simulation.voices (a manifest of recordings of single speakers with texts)"
        )

    def make(resuming: bool, say: Say) -> Prepared:
        return prepare(config, resuming, say, train_cuts=train_cuts, validation_cuts=validation_cuts)

    return run(config, make, say)


def prepare(
    config: TrainConfig,
    resuming: bool = False,
    say: Say = print,
    *,
    train_cuts: Iterable[Cut] | None = None,
    validation_cuts: Mapping[str, Iterable[Cut]] | None = None,
) -> Prepared:
    """The task and the data of the run the configuration describes."""
    from aronnax.collections.diarization.multispeaker.task import MultispeakerTask

    model = build_model(config)
    task = MultispeakerTask(model, config.optim, _task_config(config), seed=config.trainer.seed)
    for part in trainable_parts(model):
        say(str(part))
    data, simulation = config.data, config.simulation
    if train_cuts is None and simulation.voices is not None:
        train_cuts = PassesOfSessions(simulation, simulation.voices, model.sample_rate, data.seed)
        # Sessions are of much the same length; to estimate buckets would mean to plan thousands of them.
        batching = replace(data.batching, buckets=1, buffer_size=min(BUFFER, data.batching.buffer_size))
        data = replace(data, batching=batching)
    if validation_cuts is None and simulation.validation_voices is not None:
        if data.validation:
            raise ConfigError("name data.validation or simulation.validation_voices, not both")
        fixed = replace(simulation, count=simulation.validation_sessions)
        sessions = PassesOfSessions(fixed, simulation.validation_voices, model.sample_rate, data.seed + 1)
        validation_cuts = {"simulated": sessions}
    module = task.data(data, train=train_cuts, validation=validation_cuts)
    return Prepared(task, module, "multi-speaker recogniser")


def build_model(config: TrainConfig) -> MultispeakerModel:
    """The model a run starts from: a recogniser and a diarizer put together, or a checkpoint of both."""
    from aronnax.core.loading import load

    assert isinstance(config.init_from, str), "checked by load_config"
    loaded, section = load(config.init_from, device="cpu"), _model_section(config)
    if isinstance(loaded, MultispeakerModel):
        if section or config.diarizer is not None:
            raise ConfigError(
                f"init_from: {config.init_from} has a recogniser and a diarizer already; leave out the options in"
                " `model` and `diarizer`"
            )
        return loaded.train()
    if not isinstance(loaded, SpeechRecognizer):
        raise ConfigError(f"init_from: {config.init_from} is not a speech recogniser")
    diarizer = None if config.diarizer is None else load(config.diarizer, device="cpu")
    if diarizer is not None and not isinstance(diarizer, SortformerModel):
        raise ConfigError(
            f"diarizer: {config.diarizer} holds a {type(diarizer).__name__}, which does not diarize"
        )
    planned = from_dict(MultispeakerConfig, {**section, "recogniser": {"type": loaded.model_type}}, "model")
    recogniser = with_speaker_tokens(loaded, planned.speaker_tokens)
    options = {name: getattr(planned, name) for name in section}
    return MultispeakerModel.of(recogniser, diarizer, **options).train()


def _task_config(config: TrainConfig) -> MultispeakerTaskConfig:
    from aronnax.collections.diarization.multispeaker.task import MultispeakerTaskConfig

    return from_dict(MultispeakerTaskConfig, config.task, where="task")


def _model_section(config: TrainConfig) -> dict[str, Any]:
    """The options of the model, without the parts that come from checkpoints."""
    section = {name: value for name, value in config.model.items() if name != "type"}
    kind = config.model.get("type", MultispeakerModel.model_type)
    if kind != MultispeakerModel.model_type:
        raise ConfigError(f"model.type is {kind!r}; this recipe trains {MultispeakerModel.model_type}")
    for name in ("recogniser", "diarizer"):
        if name in section:
            raise ConfigError(f"model.{name} comes from a checkpoint: name it as init_from or diarizer")
    return section
