"""From the inputs of a configuration to one stream of cuts, mixed by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from aronnax.collections.common.data.config import InputConfig
from aronnax.collections.common.data.hf_cuts import HuggingFaceDataset
from aronnax.collections.common.data.mixing import Chain, Endless, Interleaved, tempered
from aronnax.collections.common.data.nemo_cuts import JsonLines, NemoManifest, TarredNemoManifest, expand
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.slots import fill_slots, read_slots
from aronnax.core.errors import ConfigError, ManifestError

OpenInput = Callable[..., Iterable[Cut]]
"""Opens an input: (item, dropped, *, shuffle, seed, required) -> its cuts."""


class Inputs:
    """The cuts of a list of inputs, lazily.

    Siblings without weights are read once each, shuffled together or one after the other; siblings with weights
    are repeated for ever and drawn from in proportion. `endless` tells which. `required` names the slots, and
    `text`, that every recording must have. `open_input` opens inputs of types that only some collections know.
    """

    def __init__(
        self,
        inputs: Sequence[InputConfig],
        dropped: Dropped,
        *,
        shuffle: bool,
        seed: int,
        temperature: float | Sequence[float] = 1.0,
        required: Sequence[str] = (),
        open_input: Mapping[str, OpenInput] | None = None,
    ) -> None:
        if not inputs:
            raise ConfigError("there is no input to read: data.train is empty")
        self._dropped, self._shuffle, self._seed = dropped, shuffle, seed
        self._required, self._open_input = tuple(required), dict(open_input or {})
        depth = _depth(inputs)
        levels = [temperature] * depth if isinstance(temperature, (int, float)) else list(temperature)
        if len(levels) != depth:
            raise ConfigError(
                f"temperature has {len(levels)} values and the inputs {depth} levels of groups; give one for each"
            )
        self.endless = any(_weighted(inputs))
        self._cuts = self._mix(inputs, levels, "inputs")

    def __iter__(self) -> Iterator[Cut]:
        return iter(self._cuts)

    def _mix(self, inputs: Sequence[InputConfig], temperatures: Sequence[float], place: str) -> Iterable[Cut]:
        """Members of a group, or the inputs on top, as one stream; `place` seeds each level on its own."""
        streams = [
            self._open(item, temperatures[1:], f"{place}.{index}") for index, item in enumerate(inputs)
        ]
        if all(item.weight is None for item in inputs):
            return self._once(streams, place)
        if any(item.weight is None for item in inputs):
            names = [item.path or "a group" for item in inputs if item.weight is None]
            raise ConfigError(
                f"either all inputs of a group have a weight or none; {', '.join(names)} have none"
            )
        weights = [item.weight or 0.0 for item in inputs]
        return Endless(streams, tempered(weights, temperatures[0]), f"{self._seed} {place}")

    def _once(self, streams: Sequence[Iterable[Cut]], place: str) -> Iterable[Cut]:
        if len(streams) == 1:
            return streams[0]
        if not self._shuffle:
            return Chain(streams)
        # In proportion to their sizes, so that none runs out long before the others.
        sizes = [size_of(stream) for stream in streams]
        shares = [1.0 if size is None else float(max(1, size)) for size in sizes]
        return Interleaved(streams, shares, f"{self._seed} {place}")

    def _open(self, item: InputConfig, temperatures: Sequence[float], place: str) -> Iterable[Cut]:
        options: dict[str, Any] = {"shuffle": self._shuffle, "seed": self._seed, "required": self._required}
        slots = {**item.slots, **read_slots(item.tags)}
        if item.type == "group":
            members = [replace(member, slots={**slots, **member.slots}) for member in item.inputs]
            if item.temperature is not None:
                temperatures = [item.temperature, *temperatures[1:]]
            cuts = self._mix(members, temperatures, place)
            return _Tagged(cuts, item.tags) if item.tags else cuts
        item = replace(item, slots=slots)
        if item.type == "conversations":
            if item.type not in self._open_input:
                raise ConfigError(
                    f"{item.path}: conversations are for speech language models, not for this one"
                )
            cuts = self._open_input[item.type](item, self._dropped, **options)
        elif item.type == "hf_dataset":
            cuts = HuggingFaceDataset(item, self._dropped, **options)
        elif item.type == "nemo_manifest" and item.tar:
            cuts = TarredNemoManifest(item, self._dropped, **options)
        elif item.type == "nemo_manifest":
            cuts = NemoManifest(item, self._dropped, **options)
        else:
            cuts = _lhotse(item, **options)
        return _Tagged(cuts, item.tags) if item.tags else cuts


def size_of(cuts: Iterable[Cut]) -> int | None:
    """How many cuts there are, where that is known without reading them."""
    if isinstance(cuts, _Tagged):
        return size_of(cuts.cuts)
    return len(cuts) if isinstance(cuts, (JsonLines, list, tuple)) else None


class _Tagged:
    """Adds custom fields to every cut; `language` goes to the supervisions that have none."""

    def __init__(self, cuts: Iterable[Cut], tags: Mapping[str, str]) -> None:
        self.cuts, self._tags = cuts, dict(tags)

    def __iter__(self) -> Iterator[Cut]:
        language = self._tags.get("language")
        for cut in self.cuts:
            cut.custom = {**(cut.custom or {}), **self._tags}
            for supervision in cut.supervisions:
                supervision.language = supervision.language or language
            yield cut


class _Slotted:
    """Fills in the prompt slots of cuts from elsewhere."""

    def __init__(self, cuts: Iterable[Cut], item: InputConfig, required: Sequence[str]) -> None:
        self._cuts, self._item, self._required = cuts, item, required

    def __iter__(self) -> Iterator[Cut]:
        for cut in self._cuts:
            yield fill_slots(cut, self._item.slots, self._required, f"{self._item.path}, cut {cut.id}")


def _lhotse(item: InputConfig, *, shuffle: bool, seed: int, required: Sequence[str]) -> Iterable[Cut]:
    paths = [Path(path) for path in expand(item.path)]
    for path in paths:
        if not path.exists():
            raise ManifestError(f"{path}: no such {item.type.replace('_', ' ')}")
    if item.type == "lhotse_shar":
        fields = _shar_fields(paths)
        shar = CutSet.from_shar(fields=fields, shuffle_shards=shuffle, seed=seed, stateful_shuffle=True)
        return _Slotted(shar, item, required)
    streams = [
        CutSet.from_file(path) if path.suffix == ".json" else CutSet.from_jsonl_lazy(path) for path in paths
    ]
    return _Slotted(streams[0] if len(streams) == 1 else Chain(streams), item, required)


def _shar_fields(folders: Sequence[Path]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in (".gz", ".jsonl", ".tar", ".zst"):
                fields.setdefault(path.name.split(".")[0], []).append(str(path))
    if "cuts" not in fields:
        raise ManifestError(f"{folders[0]}: not Lhotse shar; it holds no cuts.*.jsonl.gz")
    return fields


def _weighted(inputs: Sequence[InputConfig]) -> Iterator[bool]:
    for item in inputs:
        yield item.weight is not None
        yield from _weighted(item.inputs)


def _depth(inputs: Sequence[InputConfig]) -> int:
    return 1 + max((_depth(item.inputs) for item in inputs if item.inputs), default=0)
