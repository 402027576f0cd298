"""The `data` section of a training configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aronnax.collections.common.audio.perturb import PerturbConfig
from aronnax.collections.common.data.non_speech import NonSpeechConfig
from aronnax.collections.common.data.slots import checked_slots
from aronnax.core.config import from_dict
from aronnax.core.errors import ConfigError

InputType = Literal["nemo_manifest", "lhotse_cuts", "lhotse_shar", "hf_dataset", "conversations", "group"]


@dataclass(frozen=True)
class InputConfig:
    """One source of recordings, or a group of them."""

    type: InputType = "nemo_manifest"
    """What `path` holds."""
    path: str = ""
    """Manifest, cuts file, shar folder, data set name or file of conversations; `_OP_0..3_CL_` or `{0..3}` stands for
    numbered files."""
    tar: str = ""
    """nemo_manifest: the tar files the audio lies in, with the same braces."""
    weight: float | None = None
    """How often to draw from it beside its siblings; all or none have one. With weights data never ends."""
    tags: dict[str, str] = field(default_factory=dict)
    """Custom fields every cut gets; `language` also becomes its supervisions' language."""
    slots: dict[str, Any] = field(default_factory=dict)
    """Prompt slots of the recordings that have none of their own: `{source_lang: en, target_lang: de, pnc: yes}`."""
    text_field: str = "text"
    """nemo_manifest, hf_dataset: the field that holds the transcript; `answer` stands in for a missing `text`."""
    language_field: str = "lang"
    """nemo_manifest, hf_dataset: the field that holds the language."""
    audio_field: str = "audio"
    """hf_dataset: the column with the recordings."""
    name: str | None = None
    """hf_dataset: the configuration of the data set."""
    split: str = "train"
    """hf_dataset: the split."""
    streaming: bool = True
    """hf_dataset: read from the hub while training instead of downloading first."""
    inputs: tuple[InputConfig, ...] = ()
    """group: its members."""
    temperature: float | None = None
    """group: the temperature among its members, instead of the one `data.temperature` has for this level."""

    def __post_init__(self) -> None:
        if self.type == "group" and not self.inputs:
            raise ConfigError("an input of type group needs `inputs`")
        if self.type != "group" and not self.path:
            raise ConfigError(f"an input of type {self.type} needs a `path`")
        if self.type != "group" and self.inputs:
            raise ConfigError(f"`inputs` belongs to a group, not to an input of type {self.type}")
        if self.type != "group" and self.temperature is not None:
            raise ConfigError(f"`temperature` belongs to a group, not to an input of type {self.type}")
        if self.temperature is not None:
            _check_temperature(self.temperature)
        if self.tar and self.type != "nemo_manifest":
            raise ConfigError(f"`tar` belongs to a nemo_manifest, not to an input of type {self.type}")
        if self.weight is not None and self.weight <= 0:
            raise ConfigError(f"weight {self.weight} of {self.path or 'a group'} must be above 0")
        object.__setattr__(self, "slots", checked_slots(self.slots, self.path or "a group"))


@dataclass(frozen=True)
class FilterConfig:
    """Which recordings to leave out; None means no limit."""

    min_duration: float | None = 0.1
    """Seconds."""
    max_duration: float | None = None
    """Seconds."""
    min_characters_per_second: float | None = None
    """Slower ones often lack a part of their transcript."""
    max_characters_per_second: float | None = None
    """Faster ones often carry somebody else's transcript."""
    min_tokens_per_second: float | None = None
    """As above, in the tokenizer's pieces."""
    max_tokens_per_second: float | None = None
    """A CTC model of 8x subsampling cannot say more than 12.5 a second."""
    allow_empty_text: bool = True
    """Whether recordings without words take part, as silence."""


Bin = float | tuple[float, int]


@dataclass(frozen=True)
class BatchingConfig:
    """How recordings become batches of about equal cost and little padding."""

    batch_duration: float | None = None
    """Seconds in a batch with its padding counted: the longest times their number."""
    batch_size: int | None = None
    """Recordings in a batch, at most. Without it and batch_duration: 8."""
    quadratic_duration: float | None = None
    """With q, a recording of d seconds counts d + d^2/q: attention costs more for long ones. 15 to 40 is usual."""
    buckets: int = 30
    """Buckets of like duration, estimated from the data unless bucket_duration_bins says them; 1 for none."""
    bucket_duration_bins: tuple[Bin, ...] = ()
    """Upper edges in seconds, or [seconds, tokens] pairs for 2-D buckets; `aronnax bins` prints them."""
    bucket_batch_sizes: tuple[int, ...] = ()
    """A fixed number of recordings for each of bucket_duration_bins; longer recordings are left out."""
    bucket_max_tokens_per_second: tuple[float, ...] = ()
    """For each of bucket_duration_bins; recordings with more are left out as outliers, which cost much memory."""
    batch_tokens: int | None = None
    """2-D buckets without fixed sizes: tokens in a batch with padding counted; beside batch_duration or alone."""
    buffer_size: int = 10_000
    """Recordings held in all buckets together; more of them shuffle better."""
    concurrent: bool = True
    """Read on in a thread, and begin before the buffer is full. The order of batches stays reproducible."""
    bins_estimate: int = 10_000
    """Recordings looked at to estimate the bins."""

    def __post_init__(self) -> None:
        bins = [edge if isinstance(edge, tuple) else (edge,) for edge in self.bucket_duration_bins]
        if bins != sorted(bins) or len({len(edge) for edge in bins}) > 1:
            raise ConfigError(
                "bucket_duration_bins must rise, and be all numbers or all [seconds, tokens] pairs"
            )
        sizes = self.bucket_batch_sizes
        if sizes and len(sizes) != len(bins):
            raise ConfigError(
                f"bucket_batch_sizes has {len(sizes)} values and bucket_duration_bins {len(bins)}; "
                "fixed sizes need one for each bin"
            )
        if self.bucket_max_tokens_per_second and len(self.bucket_max_tokens_per_second) != len(bins):
            raise ConfigError(
                f"bucket_max_tokens_per_second has {len(self.bucket_max_tokens_per_second)} values and "
                f"bucket_duration_bins {len(bins)}; it needs one for each bin"
            )
        limits = (self.batch_duration, self.batch_size, self.batch_tokens)
        if sizes and any(limit is not None for limit in limits):
            raise ConfigError(
                "bucket_batch_sizes already fixes the batches; leave out batch_duration, batch_size and batch_tokens"
            )
        if self.two_dimensional and not sizes and all(limit is None for limit in limits):
            raise ConfigError(
                "2-D bucket_duration_bins need bucket_batch_sizes, one for each [seconds, tokens], "
                "or batch_duration and batch_tokens"
            )
        if self.batch_tokens is not None and not self.two_dimensional:
            raise ConfigError("batch_tokens needs bucket_duration_bins of [seconds, tokens]")
        for name in (
            "batch_duration",
            "batch_size",
            "batch_tokens",
            "quadratic_duration",
            "buckets",
            "buffer_size",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")

    @property
    def two_dimensional(self) -> bool:
        """Whether buckets have an upper edge in tokens too."""
        return any(isinstance(edge, tuple) for edge in self.bucket_duration_bins)

    @property
    def closed(self) -> bool:
        """Whether recordings beyond the last bucket are left out."""
        return self.two_dimensional or bool(self.bucket_batch_sizes)


_SHARES = {"audio": 0.85, "text": 0.15}
"""Weights of two streams of these names that are given none."""


@dataclass(frozen=True)
class StreamConfig:
    """One kind of training data, whose batches are its own: recordings beside texts, for instance."""

    train: Any = ()
    """Inputs, as in `data.train`."""
    weight: float | None = None
    """How often a step is of this kind, beside the others; all or none have one."""
    filters: FilterConfig | None = None
    """Instead of `data.filters`."""
    batching: BatchingConfig | None = None
    """Instead of `data.batching`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", read_inputs(self.train, "data.streams"))
        if self.weight is not None and self.weight <= 0:
            raise ConfigError(f"weight {self.weight} of a stream must be above 0")


@dataclass(frozen=True)
class Stream:
    """One kind of training data with all that holds for it."""

    train: tuple[InputConfig, ...]
    weight: float
    filters: FilterConfig
    batching: BatchingConfig


@dataclass(frozen=True)
class DataConfig:
    """What to train and validate on.

    `train` is a path, an input (see InputConfig), or a list of these; `validation` likewise, or a mapping of
    names to them. The type of a bare path follows from its name: `.jsonl`/`.json` a NeMo manifest,
    `.jsonl.gz` Lhotse cuts, a folder Lhotse shar.
    """

    train: Any = ()
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    """Instead of `train`: several kinds of data by name. Each step trains on a batch of one kind, drawn by weight;
    data never ends then. `audio` and `text` without weights get 0.85 and 0.15, others equal ones."""
    validation: Any = ()
    sample_rate: int = 16000
    """Hz; recordings of other rates are resampled."""
    channel: int | Literal["mean"] = "mean"
    """Which channel to hear of recordings with several."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """Changes of speed, loudness, room and noise; of the training recordings only."""
    non_speech: NonSpeechConfig = field(default_factory=NonSpeechConfig)
    """Recordings without speech among the training recordings."""
    validation_batch_size: int = 16
    """Recordings in a validation batch, at most."""
    temperature: float | tuple[float, ...] = 1.0
    """Weights are raised to this power, then normalised: 1 keeps them, 0 makes them equal. A list goes by level."""
    shuffle: bool = True
    seed: int = 0
    num_workers: int = 2
    """Processes that read audio; 0 reads in the training process."""
    prefetch: int = 4
    """Batches each of them holds ready."""

    def __post_init__(self) -> None:
        levels = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        for temperature in levels:
            _check_temperature(temperature)
        object.__setattr__(self, "train", read_inputs(self.train, "data.train"))
        if self.train and self.streams:
            raise ConfigError("data.train and data.streams are both given; leave one of them empty")
        if len({stream.weight is None for stream in self.streams.values()}) > 1:
            raise ConfigError("either all of data.streams have a weight or none")
        sets = self.validation if isinstance(self.validation, Mapping) else None
        if sets is None or "type" in sets or "path" in sets:
            sets = {"validation": self.validation} if self.validation else {}
        object.__setattr__(
            self,
            "validation",
            {name: read_inputs(value, f"data.validation.{name}") for name, value in sets.items()},
        )

    @property
    def inputs(self) -> tuple[InputConfig, ...]:
        """All that is trained on, of every stream."""
        return tuple(item for stream in self.training.values() for item in stream.train)

    @property
    def training(self) -> dict[str, Stream]:
        """The kinds of training data with all that holds for each; `train` is one without a name."""
        given = self.streams or {"": StreamConfig(self.train)}
        shares = _SHARES if given.keys() == _SHARES.keys() else dict.fromkeys(given, 1.0)
        return {
            name: Stream(
                stream.train,
                shares[name] if stream.weight is None else stream.weight,
                stream.filters or self.filters,
                stream.batching or self.batching,
            )
            for name, stream in given.items()
        }


def _check_temperature(temperature: float) -> None:
    if temperature < 0:
        raise ConfigError(
            f"temperature {temperature:g} must not be below 0: 1 keeps weights, 0 makes them equal"
        )


def read_inputs(value: Any, where: str) -> tuple[InputConfig, ...]:
    """Inputs from what a user may write: a path, a mapping, an InputConfig, or a list of these.

    Raises:
        ConfigError: an entry is something else, or has an unknown or ill-typed option.
    """
    if isinstance(value, (str, Path, Mapping, InputConfig)):
        value = (value,)
    if not isinstance(value, Sequence):
        raise ConfigError(
            f"{where} is {value!r}; it must be a path, an input with type and path, or a list of them"
        )
    return tuple(_read_input(item, f"{where}[{index}]") for index, item in enumerate(value))


def _read_input(item: Any, where: str) -> InputConfig:
    if isinstance(item, InputConfig):
        return item
    if isinstance(item, (str, Path)):
        return InputConfig(type=guess_type(str(item)), path=str(item))
    if isinstance(item, Mapping):
        if "type" not in item and "path" in item:
            item = {"type": guess_type(str(item["path"])), **item}
        return from_dict(InputConfig, item, where)
    raise ConfigError(f"{where} is {item!r}; it must be a path or an input with type and path")


def guess_type(path: str) -> InputType:
    """The input type a path's name speaks for.

    Raises:
        ConfigError: the name says nothing; give `type` beside `path`.
    """
    name = path.rstrip("/").rsplit("/", 1)[-1]
    if name.endswith((".jsonl.gz", ".jsonl.zst")):
        return "lhotse_cuts"
    if name.endswith((".json", ".jsonl")):
        return "nemo_manifest"
    if Path(path).is_dir():
        return "lhotse_shar"
    raise ConfigError(
        f"{path}: neither a NeMo manifest (.json, .jsonl), Lhotse cuts (.jsonl.gz) nor a folder of Lhotse shar; "
        "if it is one of them, say so with `type`"
    )
