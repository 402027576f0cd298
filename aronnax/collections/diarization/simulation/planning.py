"""Who speaks when in a session: drawn at random, and steered towards the silence and overlap that were asked for.

Everything is counted in samples. Knows nothing of audio, so that statistics can be tested over thousands of sessions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.core.errors import ConfigError

SAME_SPEAKER_GAP = 0.1
"""Seconds between two turns of one speaker, at least."""


@dataclass(frozen=True)
class Span:
    """Samples [start, stop) of recording `index` of a speaker, all of it speech."""

    index: int
    start: int
    stop: int


class Voice(Protocol):
    """What one speaker may say."""

    def draw(self, rng: random.Random) -> Span:
        """A stretch of speech from one of the speaker's recordings."""


@dataclass(frozen=True)
class Turn:
    """A piece of a speaker's recording at a place in the session, which begins at sample `at`.

    The samples of `span` are those of the recording played at `speed`.
    """

    speaker: str
    span: Span
    at: int
    speed: float = 1.0

    @property
    def end(self) -> int:
        """First sample of the session after it."""
        return self.at + self.span.stop - self.span.start


@dataclass(frozen=True)
class Shares:
    """Samples of a session in which somebody speaks, and of those in which two or more do."""

    speech: int
    overlap: int


def shares_of(turns: Sequence[Turn]) -> Shares:
    """How much speech and overlap a session has."""
    edges = sorted((place, step) for turn in turns for place, step in ((turn.at, 1), (turn.end, -1)))
    speech = overlap = active = last = 0
    for place, step in edges:
        speech += (place - last) * (active >= 1)
        overlap += (place - last) * (active >= 2)
        active, last = active + step, place
    return Shares(speech, overlap)


def plan_session(
    pool: Mapping[str, Voice], config: SimulationConfig, rate: int, rng: random.Random
) -> list[Turn]:
    """The turns of one session, by their beginnings; `pool` holds what each speaker may say.

    The number of speakers is drawn from those the pool can serve; all of them speak at least once, if the session
    is long enough. Raises ConfigError when the pool has fewer speakers than the smallest number asked for.
    """
    count = _number_of_speakers(config, len(pool), rng)
    names = rng.sample(sorted(pool), count)
    speeds = {name: rng.choice(config.speeds) for name in names}
    session = _Session(pool, speeds, config, rate, rng, overlap=config.overlap if count > 1 else 0.0)
    waiting = list(names)
    speaker: str | None = None
    while True:
        speaker = waiting.pop() if waiting else _next_speaker(names, speaker, config, rng)
        if not session.add(speaker):
            return session.turns


def _number_of_speakers(config: SimulationConfig, available: int, rng: random.Random) -> int:
    weights = config.speaker_weights or (1.0,) * len(config.speakers)
    possible = [(n, weight) for n, weight in zip(config.speakers, weights) if n <= available]
    if not possible:
        raise ConfigError(
            f"sessions need at least {min(config.speakers)} speakers, and the recordings have {available}: "
            "give more recordings, or ask for fewer speakers"
        )
    return rng.choices([n for n, _ in possible], [weight for _, weight in possible])[0]


def _next_speaker(
    names: Sequence[str], last: str | None, config: SimulationConfig, rng: random.Random
) -> str:
    others = [name for name in names if name != last]
    if last is not None and (not others or rng.random() >= config.turn_change):
        return last
    return rng.choice(others)


class _Session:
    """Turns so far, and what they came to."""

    def __init__(
        self,
        pool: Mapping[str, Voice],
        speeds: Mapping[str, float],
        config: SimulationConfig,
        rate: int,
        rng: random.Random,
        overlap: float,
    ) -> None:
        self.pool, self.speeds, self.config, self.rate, self.rng = pool, speeds, config, rate, rng
        self.length = round(config.seconds * rate)
        self.silence_share = _drawn(config.silence, config.spread, rng)
        self.overlap_share = _drawn(overlap, config.spread, rng)
        self.turns: list[Turn] = []
        self.end = 0
        self.speech = self.overlap = 0
        self.last_of: dict[str, int] = {}

    def add(self, speaker: str) -> bool:
        """Lets a speaker speak next; False when the session is full."""
        span = self._span(speaker)
        length = span.stop - span.start
        at = self._place(speaker, length)
        if at >= self.length:
            return False
        if at + length > self.length:
            if self.config.whole_utterances and self.turns:
                return False
            span = Span(span.index, span.start, span.start + self.length - at)
        turn = Turn(speaker, span, at, self.speeds[speaker])
        covered = max(0, min(self.end, turn.end) - at)
        self.overlap += covered
        self.speech += turn.end - at - covered
        self.turns.append(turn)
        self.end = max(self.end, turn.end)
        self.last_of[speaker] = turn.end
        return True

    def _span(self, speaker: str) -> Span:
        span = _played(self.pool[speaker].draw(self.rng), self.speeds[speaker])
        if self.config.whole_utterances:
            return span
        sigma = self.config.turn_sigma
        # The mean of a log-normal is exp(mu + sigma^2 / 2).
        mu = math.log(self.config.turn_seconds) - sigma**2 / 2
        seconds = max(self.config.shortest_turn, self.rng.lognormvariate(mu, sigma))
        length = min(span.stop - span.start, round(seconds * self.rate))
        start = self.rng.randint(span.start, span.stop - length)
        return Span(span.index, start, start + length)

    def _place(self, speaker: str, length: int) -> int:
        """Where a turn of so many samples begins: before the end of what is said, or after a silence."""
        earliest = 0
        if speaker in self.last_of:
            earliest = self.last_of[speaker] + round(SAME_SPEAKER_GAP * self.rate)
        speech = self.speech + length
        missing_overlap = self.overlap_share * speech - self.overlap
        silent = self.end - self.speech
        missing_silence = self.silence_share / (1 - self.silence_share) * speech - silent
        # Turns never begin before the last one began, so that what is said lies between its beginning and the end.
        room = self.end - max(earliest, self.turns[-1].at + 1) if self.turns else 0
        possible = min(missing_overlap, room, length - 1)
        wanted_overlap, wanted_silence = max(0.0, possible), max(0.0, missing_silence)
        if self.rng.random() * (wanted_overlap + wanted_silence) < wanted_overlap:
            return self.end - round(min(possible, wanted_overlap * self.rng.uniform(0.5, 1.5)))
        return max(earliest, self.end + round(wanted_silence * self.rng.uniform(0.0, 2.0)))


def _played(span: Span, speed: float) -> Span:
    """The same stretch of a recording that is played faster or slower, of at least one sample."""
    start = math.ceil(span.start / speed)
    return Span(span.index, start, max(start + 1, math.floor(span.stop / speed)))


def _drawn(mean: float, spread: float, rng: random.Random) -> float:
    """A share with that mean and a standard deviation of `spread` times it, from a beta distribution."""
    if mean == 0.0 or spread == 0.0:
        return mean
    # The variance of a share is below mean * (1 - mean).
    variance = min((spread * mean) ** 2, 0.5 * mean * (1 - mean))
    scale = mean * (1 - mean) / variance - 1
    return rng.betavariate(mean * scale, (1 - mean) * scale)
