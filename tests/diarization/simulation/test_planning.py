"""Statistics of simulated sessions over a thousand of them, and what every single one must obey."""

import random
from itertools import pairwise

import pytest

from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.planning import Span, Turn, plan_session, shares_of
from aronnax.core.errors import ConfigError

RATE = 8000


class Talker:
    """A speaker with recordings of 1 to 12 seconds."""

    def __init__(self, seed: int) -> None:
        lengths = random.Random(seed)
        self.spans = [Span(index, 0, int(lengths.uniform(1, 12) * RATE)) for index in range(5)]

    def draw(self, rng):
        return rng.choice(self.spans)


POOL = {f"speaker-{number}": Talker(number) for number in range(12)}


def sessions(config, count=1000):
    return [plan_session(POOL, config, RATE, random.Random(number)) for number in range(count)]


@pytest.mark.parametrize(
    ("silence", "overlap", "seconds"), [(0.15, 0.12, 90.0), (0.3, 0.05, 60.0), (0.05, 0.3, 60.0)]
)
def test_silence_and_overlap_are_what_was_asked_for(silence, overlap, seconds):
    config = SimulationConfig(seconds=seconds, silence=silence, overlap=overlap, speakers=(2, 3, 4))
    made = [shares_of(turns) for turns in sessions(config)]
    length = seconds * RATE
    assert sum(1 - s.speech / length for s in made) / 1000 == pytest.approx(silence, rel=0.1)
    assert sum(s.overlap / s.speech for s in made) / 1000 == pytest.approx(overlap, rel=0.1)


def test_numbers_of_speakers_come_as_often_as_was_asked_for():
    config = SimulationConfig(speakers=(1, 2, 4), speaker_weights=(1.0, 2.0, 1.0))
    counts = [len({turn.speaker for turn in turns}) for turns in sessions(config)]
    for number, share in ((1, 0.25), (2, 0.5), (4, 0.25)):
        assert counts.count(number) / 1000 == pytest.approx(share, rel=0.1)


def test_turns_are_as_long_as_was_asked_for():
    pool = {"a": Long(), "b": Long()}
    config = SimulationConfig(seconds=600.0, speakers=(2,), turn_seconds=3.0)
    turns = [t for n in range(40) for t in plan_session(pool, config, RATE, random.Random(n))[:-1]]
    mean = sum(turn.end - turn.at for turn in turns) / len(turns) / RATE
    assert mean == pytest.approx(3.0, rel=0.1)


class Long:
    def draw(self, rng):
        return Span(0, 0, 100 * RATE)


@pytest.mark.parametrize("whole", [False, True])
def test_nobody_speaks_over_themselves_and_all_stays_inside(whole):
    config = SimulationConfig(seconds=60.0, overlap=0.3, speakers=(2, 3, 4), whole_utterances=whole)
    for turns in sessions(config, 200):
        assert all(0 <= turn.at < turn.end <= 60 * RATE for turn in turns)
        assert all(before.at < after.at for before, after in pairwise(turns))
        for speaker in {turn.speaker for turn in turns}:
            own = [turn for turn in turns if turn.speaker == speaker]
            assert all(after.at - before.end >= 0.1 * RATE for before, after in pairwise(own))


def test_a_single_speaker_never_overlaps():
    for turns in sessions(SimulationConfig(speakers=(1,), overlap=0.3), 50):
        assert shares_of(turns).overlap == 0


def test_shares_are_counted_to_the_sample():
    turns = [Turn("a", Span(0, 5, 15), 0), Turn("b", Span(0, 0, 10), 7), Turn("c", Span(0, 0, 3), 8)]
    shares = shares_of(turns)
    assert (shares.speech, shares.overlap) == (17, 4)


def test_the_same_seed_gives_the_same_session():
    config = SimulationConfig(speeds=(0.9, 1.0, 1.1))
    assert plan_session(POOL, config, RATE, random.Random(3)) == plan_session(
        POOL, config, RATE, random.Random(3)
    )


def test_too_few_speakers_are_said():
    with pytest.raises(ConfigError, match="at least 20 speakers, and the recordings have 12"):
        plan_session(POOL, SimulationConfig(speakers=(20,)), RATE, random.Random(0))


@pytest.mark.parametrize(
    "options",
    [{"overlap": 0.5}, {"silence": -0.1}, {"speakers": ()}, {"speeds": (0.0,)}, {"speaker_weights": (1.0,)}],
)
def test_impossible_wishes_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SimulationConfig(**options)
