"""The speakers that sessions are made of, and where in their recordings they speak."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from aronnax.collections.common.audio.activity import ActivityConfig, speech_regions
from aronnax.collections.diarization.simulation.planning import Span
from aronnax.core.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from lhotse.cut import Cut

SPEECH = ActivityConfig(min_silence=0.4, padding=0.04)
"""Pauses from this length on are labelled as silence."""


class RecordedVoice:
    """A speaker's recordings; each is searched for speech when it is first drawn."""

    def __init__(self, name: str, rate: int, whole: bool) -> None:
        self.name, self.rate, self.whole = name, rate, whole
        self.cuts: list[Cut] = []
        self._spans: dict[int, list[Span]] = {}

    def draw(self, rng: random.Random) -> Span:
        """A stretch of speech of a recording, long ones more often; or all of it from first word to last."""
        order = rng.sample(range(len(self.cuts)), len(self.cuts))
        for index in order:
            spans = self._found(index)
            if spans:
                return rng.choices(spans, [span.stop - span.start for span in spans])[0]
        raise AudioError(f"no speech was found in the {len(self.cuts)} recordings of speaker {self.name}")

    def _found(self, index: int) -> list[Span]:
        if index not in self._spans:
            signal = self.cuts[index].load_audio()[0]
            regions = speech_regions(signal, self.rate, config=SPEECH)
            if self.whole and regions:
                regions = [(regions[0][0], regions[-1][1])]
            self._spans[index] = [Span(index, start, min(stop, len(signal))) for start, stop in regions]
        return self._spans[index]


class Voices(Mapping[str, RecordedVoice]):
    """Speakers by name, from cuts of one speaker each; played at `rate` Hz.

    `whole` takes every recording from its first word to its last, pauses included. Raises ManifestError when a
    recording does not say who speaks.
    """

    def __init__(self, cuts: Iterable[Cut], rate: int, *, whole: bool = False) -> None:
        self.rate = rate
        self._voices: dict[str, RecordedVoice] = {}
        for cut in cuts:
            name = next((supervision.speaker for supervision in cut.supervisions), None)
            if not name:
                from aronnax.collections.common.data.filters import cut_place

                raise ManifestError(
                    f"{cut_place(cut)}: no speaker is named: simulation needs a field `speaker` in every line"
                )
            voice = self._voices.setdefault(name, RecordedVoice(name, rate, whole))
            voice.cuts.append(cut if cut.sampling_rate == rate else cut.resample(rate))

    def __getitem__(self, name: str) -> RecordedVoice:
        return self._voices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._voices)

    def __len__(self) -> int:
        return len(self._voices)
