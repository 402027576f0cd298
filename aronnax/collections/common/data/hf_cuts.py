"""Hugging Face data sets as cuts; the audio stays encoded until a batch needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lhotse import Recording
from lhotse.cut import Cut

from aronnax.collections.common.audio.reading import probe
from aronnax.collections.common.data.config import InputConfig
from aronnax.collections.common.data.recordings import AudioSource, cut_of, file_source, probe_bytes
from aronnax.collections.common.data.report import Dropped
from aronnax.collections.common.data.slots import fill_slots
from aronnax.core.errors import AudioError, ManifestError, MissingExtraError


class HuggingFaceDataset:
    """Cuts of one split; shuffled within a buffer of the `datasets` library, afresh for every pass."""

    def __init__(
        self, config: InputConfig, dropped: Dropped, *, shuffle: bool, seed: int, required: Sequence[str] = ()
    ) -> None:
        self.config, self.dropped, self.shuffle, self.seed = config, dropped, shuffle, seed
        # A row whose text is null is left out and counted: its data set cannot be corrected by hand.
        self.required = [name for name in required if name != "text"]
        self._data = _open(config)
        self._passes = 0

    def __iter__(self) -> Iterator[Cut]:
        data = self._data
        if self.shuffle:
            data = data.shuffle(seed=self.seed + self._passes)
        self._passes += 1
        for index, row in enumerate(data):
            cut = self._cut(row, index)
            if cut is not None:
                yield cut

    def _cut(self, row: Mapping[str, Any], index: int) -> Cut | None:
        config = self.config
        for column in (config.audio_field, config.text_field):
            if column not in row:
                raise ManifestError(
                    f"{config.path}: it has no column {column!r}, but {', '.join(row)}; "
                    "name the right ones with audio_field and text_field"
                )
        name = str(row.get("id", f"{config.split}-{index}"))
        text, language = row[config.text_field], row.get(config.language_field)
        if text is not None and not isinstance(text, str):
            raise ManifestError(
                f"{config.path}, row {index}: {config.text_field} is {text!r}; it must be a string"
            )
        try:
            recording = _recording(row[config.audio_field], name)
        except AudioError as error:
            self.dropped.unreadable(f"{config.path}: {name}", str(error))
            return None
        custom = {
            key: value
            for key, value in row.items()
            if key != config.audio_field and isinstance(value, (str, int, float))
        }
        cut = cut_of(
            recording, name, text, language=language if isinstance(language, str) else None, custom=custom
        )
        return fill_slots(cut, config.slots, self.required, f"{config.path}, row {index}")


def _open(config: InputConfig) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "hf", "an input of type hf_dataset") from None
    data = datasets.load_dataset(config.path, config.name, split=config.split, streaming=config.streaming)
    return data.cast_column(config.audio_field, datasets.Audio(decode=False))


def _recording(audio: Mapping[str, Any], name: str) -> Recording:
    data, path = audio.get("bytes"), audio.get("path")
    if data is not None:
        samples, rate, channels = probe_bytes(data, name)
        source = AudioSource(type="memory", channels=list(range(channels)), source=data)
    elif path:
        info = probe(path)
        samples, rate, channels = info.samples, info.sample_rate, info.channels
        source = file_source(path, channels)
    else:
        raise AudioError(f"{name}: the audio column holds neither bytes nor a path")
    return Recording(
        id=name, sources=[source], sampling_rate=rate, num_samples=samples, duration=samples / rate
    )
