"""The training of diarizers from one configuration; see `common.training.run` for what it writes.

Sessions come from `data` (manifests whose lines name an `rttm_filepath`, or Lhotse cuts with a supervision for each
turn), cut into windows, or from `simulation`, made on the fly out of recordings of single speakers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.collections.common.data.config import InputConfig, guess_type
from aronnax.collections.common.training.config import TrainerConfig
from aronnax.collections.common.training.run import Prepared, RunConfig, Say, TrainResult, run
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.sortformer.config import SortformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.core.config import from_dict, load_mapping, to_dict
from aronnax.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from lhotse import SupervisionSegment
    from lhotse.cut import Cut

    from aronnax.collections.common.results import Turn
    from aronnax.collections.diarization.simulation.sessions import SimulatedSessions
    from aronnax.collections.diarization.sortformer.task import SortformerTaskConfig

__all__ = ["TrainConfig", "TrainResult", "build_model", "load_config", "prepare", "train"]

BUFFER = 64
"""Simulated sessions planned ahead, at most; they are all of one length and come in random order anyhow."""


@dataclass(frozen=True)
class SimulationSection(SimulationConfig):
    """Sessions made on the fly, and what they are made of."""

    voices: str | None = None
    """Manifest of recordings of one speaker each (NeMo's with a field `speaker`, or Lhotse cuts)."""
    validation_voices: str | None = None
    """The same for validation; speakers who are in both would make it worthless."""
    validation_sessions: int = 64
    """Sessions of it."""
    count: int = 1000
    """Sessions of a pass; every pass has new ones."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The top keys of the YAML of a diarizer."""

    simulation: SimulationSection = field(default_factory=SimulationSection)
    window: float = 90.0
    """Seconds of the pieces that longer sessions of `data` are cut into, at another place in every pass."""
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(monitor="val/der"))


def load_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> TrainConfig:
    """Reads a training YAML, with `simulation.voices=x.jsonl`-like overrides on top.

    Raises ConfigError for an unknown key anywhere, the model's and the task's sections included.
    """
    mapping = load_mapping(path, overrides)
    trainer = mapping.get("trainer") or {}
    if isinstance(trainer, Mapping):
        mapping = {**mapping, "trainer": {"monitor": "val/der", **trainer}}
    config = from_dict(TrainConfig, mapping, where="config")
    _task_config(config)
    if config.init_from is None:
        _model_config(config)
    elif not isinstance(config.init_from, str):
        raise ConfigError("init_from of a diarizer is one checkpoint, not a mapping of parts")
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
    sources = [train_cuts is not None, bool(config.data.train), config.simulation.voices is not None]
    if sum(sources) != 1:
        raise ConfigError(
            "name one thing to train on: data.train (sessions with RTTM, or Lhotse cuts) or simulation.voices "
            "(a manifest of recordings of single speakers)"
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
    from aronnax.collections.common.data.module import SpeechDataModule
    from aronnax.collections.diarization.sortformer.task import SortformerTask

    model = build_model(config)
    task = SortformerTask(model, config.optim, _task_config(config), seed=config.trainer.seed)
    rate = model.sample_rate
    data, simulation = replace(config.data, sample_rate=rate), config.simulation
    if train_cuts is None and simulation.voices is not None:
        train_cuts = PassesOfSessions(simulation, simulation.voices, rate, data.seed)
        # All sessions are of one length; to estimate buckets would mean to plan thousands of them.
        batching = replace(data.batching, buckets=1, buffer_size=min(BUFFER, data.batching.buffer_size))
        data = replace(data, batching=batching)
    elif train_cuts is None:
        train_cuts = LabelledSessions(data.train, config.window, data.seed, data.shuffle)
    if validation_cuts is None:
        validation_cuts = {
            name: LabelledSessions(inputs, config.window) for name, inputs in data.validation.items()
        }
        if simulation.validation_voices is not None:
            fixed = replace(simulation, count=simulation.validation_sessions)
            sessions = PassesOfSessions(fixed, simulation.validation_voices, rate, data.seed + 1)
            validation_cuts = {"simulated": sessions, **validation_cuts}
    module = SpeechDataModule(
        data,
        task.batch_maker(),
        train=_Wordless(train_cuts),
        validation={name: _Wordless(cuts) for name, cuts in validation_cuts.items()},
    )
    return Prepared(task, module, "diarizer")


def build_model(config: TrainConfig) -> SortformerModel:
    """The model a run starts from: fresh, or a checkpoint whose weights and sizes are kept."""
    if config.init_from is None:
        return SortformerModel(_model_config(config))
    from aronnax.core.loading import load

    assert isinstance(config.init_from, str), "checked by load_config"
    loaded = load(config.init_from, device="cpu")
    if not isinstance(loaded, SortformerModel):
        raise ConfigError(f"init_from: {config.init_from} is not a diarizer")
    section = {key: value for key, value in config.model.items() if key != "type"}
    if not section:
        return loaded.train()
    changed = SortformerModel(from_dict(SortformerConfig, _merged(to_dict(loaded.config), section), "model"))
    try:
        changed.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"model: with these options the weights of {config.init_from} do not fit: {error}"
        ) from None
    return changed


class LabelledSessions:
    """Recordings with turns from manifests (a line's `rttm_filepath`) and Lhotse cuts, in windows.

    With `shuffle`, every pass has its own order and its windows begin at another place.
    """

    def __init__(
        self, inputs: Sequence[InputConfig], window: float, seed: int = 0, shuffle: bool = False
    ) -> None:
        self.inputs, self.window, self.seed, self.shuffle = inputs, window, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The number of the pass that comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Cut]:
        from aronnax.collections.diarization.batch import windows

        rng = random.Random(f"{self.seed} pass {self.epoch}")
        cuts = [cut for item in self.inputs for cut in session_cuts(item)] if self.shuffle else None
        if cuts is not None:
            rng.shuffle(cuts)
        for cut in cuts if cuts is not None else (cut for item in self.inputs for cut in session_cuts(item)):
            first = rng.uniform(0.3, 1.0) * self.window if self.shuffle else None
            yield from windows(cut, self.window, first)


def session_cuts(item: InputConfig) -> Iterator[Cut]:
    """The sessions of one input, a supervision for each turn."""
    from aronnax.collections.common.data.report import Dropped
    from aronnax.collections.common.data.sources import Inputs

    if item.type == "nemo_manifest" and not item.tar:
        yield from _manifest_sessions(Path(item.path))
        return
    yield from Inputs([replace(item, weight=None)], Dropped(), shuffle=False, seed=0)


def _manifest_sessions(path: Path) -> Iterator[Cut]:
    from lhotse import Recording, SupervisionSegment
    from lhotse.cut import MonoCut, MultiCut

    from aronnax.collections.common.data.manifest import read_manifest

    for entry in read_manifest(path, check_audio=True):
        where = f"{path}, line {entry.line}"
        audio = Path(entry.audio_filepath)
        if not audio.is_file():
            raise ManifestError(f"{where}: {audio} does not exist")
        recording = Recording.from_file(audio, recording_id=f"{path.stem}-{entry.line}-{audio.stem}")
        own = _turns(entry.extra.get("rttm_filepath"), path.parent, audio, recording.duration, where)
        whole: Any = MonoCut if recording.num_channels == 1 else MultiCut
        cut = whole(
            id=recording.id,
            start=0.0,
            duration=recording.duration,
            channel=0 if recording.num_channels == 1 else list(range(recording.num_channels)),
            recording=recording,
            supervisions=[
                SupervisionSegment(
                    f"{recording.id}-{number}", recording.id, turn.start, turn.duration, speaker=turn.speaker
                )
                for number, turn in enumerate(own)
            ],
        )
        rest = recording.duration - entry.offset
        duration = rest if entry.duration is None else min(rest, entry.duration)
        yield cut if duration == recording.duration else cut.truncate(offset=entry.offset, duration=duration)


def _turns(named: Any, folder: Path, audio: Path, seconds: float, where: str) -> Sequence[Turn]:
    """The turns of a recording from the RTTM file that the line of a manifest names; none in an empty file."""
    from aronnax.collections.common.results.rttm import read_rttm

    if not isinstance(named, str) or not named:
        raise ManifestError(f"{where}: the field rttm_filepath is missing; it says who speaks when")
    path, name = folder / Path(named).expanduser(), "_".join(audio.stem.split())
    if not path.is_file():
        raise ManifestError(
            f"{where}: rttm_filepath names {path}, which does not exist; write its path as seen from the manifest"
        )
    try:
        turns = read_rttm(path, recordings={name: seconds}, others=True)
    except ManifestError as error:
        raise ManifestError(
            f"{where}: {error}; correct that line, or leave this one out with _skipme"
        ) from None
    if turns and name not in turns:
        others = ", ".join(sorted(turns)[:5])
        raise ManifestError(
            f"{where}: {path} has no turns of {name}, but of {others}; its second field must be the audio file's "
            "name without the ending"
        )
    return turns.get(name, ())


class PassesOfSessions:
    """Simulated sessions, new ones in every pass, from one reading of the voices."""

    def __init__(self, section: SimulationSection, voices: str, rate: int, seed: int) -> None:
        self.section, self.voices, self.rate, self.seed = section, voices, rate, seed
        self.epoch = 0
        self._sessions: SimulatedSessions | None = None

    def set_epoch(self, epoch: int) -> None:
        """The number of the pass that comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Cut]:
        if self._sessions is None:
            self._sessions = simulated(self.section, self.voices, self.rate, self.seed)
        sessions, first = self._sessions, self.epoch * self.section.count
        return (sessions.session(first + number) for number in range(self.section.count))


def simulated(
    config: SimulationConfig, voices: str, rate: int, seed: int, count: int | None = None
) -> SimulatedSessions:
    """Sessions of the speakers in a manifest or in Lhotse cuts."""
    from aronnax.collections.common.data.report import Dropped
    from aronnax.collections.common.data.sources import Inputs
    from aronnax.collections.diarization.simulation.sessions import SimulatedSessions
    from aronnax.collections.diarization.simulation.voices import Voices

    inputs = Inputs([InputConfig(guess_type(voices), voices)], Dropped(), shuffle=False, seed=0)
    pool = Voices(inputs, rate, whole=config.whole_utterances)
    return SimulatedSessions(pool, config, seed=seed, count=count)


class _Wordless:
    """Sessions as the data module takes them, which asks for a transcript: turns without a text get an empty one."""

    def __init__(self, sessions: Iterable[Cut]) -> None:
        self.sessions = sessions

    def set_epoch(self, epoch: int) -> None:
        """Handed on to sessions that want to know."""
        if hasattr(self.sessions, "set_epoch"):
            self.sessions.set_epoch(epoch)

    def __iter__(self) -> Iterator[Cut]:
        from aronnax.collections.common.data.non_speech import NON_SPEECH

        for cut in self.sessions:
            if cut.supervisions:
                yield cut.map_supervisions(_worded)
            else:
                # Silence is trained on too.
                cut.custom = {**(cut.custom or {}), NON_SPEECH: True}
                yield cut


def _worded(turn: SupervisionSegment) -> SupervisionSegment:
    from lhotse.utils import fastcopy

    return turn if turn.text is not None else fastcopy(turn, text="")


def _task_config(config: TrainConfig) -> SortformerTaskConfig:
    from aronnax.collections.diarization.sortformer.task import SortformerTaskConfig

    return from_dict(SortformerTaskConfig, config.task, where="task")


def _model_config(config: TrainConfig) -> SortformerConfig:
    section = dict(config.model)
    kind = section.pop("type", None)
    if kind not in (None, SortformerModel.model_type):
        raise ConfigError(f"model.type is {kind!r}; the diarizer that can be trained is sortformer")
    bands = (section.get("preprocessor") or {}).get("n_mels")
    if bands is not None:
        section["encoder"] = {"feat_in": bands, **(section.get("encoder") or {})}
    return from_dict(SortformerConfig, section, where="model")


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `changes` on top."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return merged
