"""Simulated sessions as Lhotse cuts: mixed only when they are loaded, or written with their labels."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aronnax.collections.common.audio.perturb import manifest_cuts
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.planning import Turn, plan_session
from aronnax.collections.diarization.simulation.voices import Voices
from aronnax.core.files import replaced_file

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut, MixedCut


class SimulatedSessions:
    """Sessions one after the other, each following from `seed` and its number alone; endless without `count`."""

    def __init__(
        self, voices: Voices, config: SimulationConfig, *, seed: int = 0, count: int | None = None
    ) -> None:
        self.voices, self.config, self.seed, self.count = voices, config, seed, count

    def __iter__(self) -> Iterator[Cut]:
        numbers = itertools.count() if self.count is None else range(self.count)
        return (self.session(number) for number in numbers)

    def session(self, number: int) -> Cut:
        """The session of that number, with a supervision for each turn."""
        rng = random.Random(f"{self.seed} session {number}")
        turns = plan_session(self.voices, self.config, self.voices.rate, rng)
        return session_cut(f"session-{self.seed}-{number:06d}", turns, self.voices, self.config, rng)


def session_cut(
    name: str, turns: list[Turn], voices: Voices, config: SimulationConfig, rng: random.Random
) -> MixedCut:
    """The turns as one cut of `config.seconds`, or up to the last turn's end where utterances stay whole."""
    from lhotse.cut import MixedCut, MixTrack, PaddingCut

    rate = voices.rate
    last = max(turn.end for turn in turns)
    samples = last if config.whole_utterances else round(config.seconds * rate)
    base = PaddingCut(
        id=f"{name}-silence", duration=samples / rate, sampling_rate=rate, num_samples=samples, feat_value=0.0
    )
    change = _speakers_change({turn.speaker for turn in turns}, config, rng)
    tracks = [MixTrack(base)]
    for number, turn in enumerate(turns):
        piece = change(turn.speaker, _piece(f"{name}-{number:03d}", turn, voices))
        tracks.append(MixTrack(piece, offset=turn.at / rate))
    return MixedCut(id=name, tracks=tracks)


def _piece(name: str, turn: Turn, voices: Voices) -> Cut:
    """A turn's own audio, labelled with speaker and, where it is a whole utterance, text."""
    from lhotse import SupervisionSegment

    rate, span = voices.rate, turn.span
    whole = voices[turn.speaker].cuts[span.index]
    if turn.speed != 1.0:
        whole = whole.perturb_speed(turn.speed, affix_id=False)
    duration = (span.stop - span.start) / rate
    piece = (
        whole.drop_supervisions()
        .truncate(offset=span.start / rate, duration=duration, preserve_id=True)
        .with_id(name)
    )
    text = " ".join(
        segment.text for segment in voices[turn.speaker].cuts[span.index].supervisions if segment.text
    )
    piece.supervisions = [
        SupervisionSegment(
            id=name,
            recording_id=piece.recording_id,
            start=0.0,
            duration=duration,
            speaker=turn.speaker,
            text=text if voices[turn.speaker].whole else None,
        )
    ]
    return piece


def _speakers_change(
    speakers: set[str], config: SimulationConfig, rng: random.Random
) -> Callable[[str, Cut], Cut]:
    """The gain of each speaker, and in a room the way the sound goes from each place to the microphone."""
    names = sorted(speakers)
    gains = {name: 10 ** (rng.uniform(*config.gain_db) / 20) for name in names}
    in_room = rng.random() < config.room_probability and config.rooms is not None
    rooms = manifest_cuts(config.rooms) if in_room and config.rooms else ()
    places = {name: rng.choice(rooms).recording for name in names if rooms}

    def change(speaker: str, cut: Cut) -> Cut:
        cut = cut.perturb_volume(gains[speaker], affix_id=False)
        return cut.reverb_rir(rir_recording=places[speaker], affix_id=False) if places else cut

    return change


def write_sessions(
    sessions: Iterable[Cut], folder: str | Path, progress: Callable[[float], None] | None = None
) -> CutSet:
    """Writes each session's audio (FLAC) and RTTM, and `cuts.jsonl.gz` with all labels; returns the written cuts.

    Sessions whose files are there already are kept, so that a stopped run goes on. `progress` gets seconds.
    """
    from lhotse import CutSet

    folder = Path(folder)
    for part in ("audio", "rttm"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    written = []
    for cut in sessions:
        audio, rttm = folder / "audio" / f"{cut.id}.flac", folder / "rttm" / f"{cut.id}.rttm"
        if not (audio.is_file() and rttm.is_file()):
            _write_audio(cut, audio)
            _write_text(rttm, rttm_of(cut))
        written.append(_labelled(cut, audio))
        if progress is not None:
            progress(cut.duration)
    made: CutSet = CutSet.from_cuts(written)
    made.to_file(folder / "cuts.jsonl.gz")
    return made


def rttm_of(cut: Cut) -> str:
    """A line a turn, times in seconds exact to the sample."""
    return "".join(
        f"SPEAKER {cut.id} 1 {turn.start:.7f} {turn.duration:.7f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in sorted(cut.supervisions, key=lambda turn: (turn.start, turn.speaker or ""))
    )


def _write_audio(cut: Cut, path: Path) -> None:
    import soundfile

    signal = cut.load_audio()[0]
    # Voices that add up beyond full scale make the whole session softer instead of distorting it.
    signal = signal / max(1.0, float(abs(signal).max()))
    with replaced_file(path) as file:
        soundfile.write(file, signal, cut.sampling_rate, format="FLAC", subtype="PCM_16")


def _write_text(path: Path, text: str) -> None:
    with replaced_file(path) as file:
        file.write(text.encode())


def _labelled(cut: Cut, audio: Path) -> Cut:
    from lhotse import Recording
    from lhotse.cut import MonoCut
    from lhotse.utils import fastcopy

    recording = Recording.from_file(audio, recording_id=cut.id)
    return MonoCut(
        id=cut.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        recording=recording,
        supervisions=[fastcopy(turn, recording_id=cut.id, channel=0) for turn in cut.supervisions],
    )
