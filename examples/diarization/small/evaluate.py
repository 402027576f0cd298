"""Judge a diarizer on speakers it has not heard, and on excerpts of real meetings; prints a table and writes JSON.

python examples/diarization/small/evaluate.py MODEL voices=DIR [rir_noise=DIR] [ami=DIR] [out=FILE] [sessions=60]

DER counts overlap and has no collar, on a grid of 10 ms. "in order" takes output n for the n-th speaker to arrive, so
no permutation is searched; "order right" is the share of sessions in which no permutation does better than that, and
"first right" that in which the first output fits the first speaker best.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from sessions import CLEAN, Loudness, session
from voices import CALIBRATION_CLIPS, RATE, Speaker, Surroundings, read_speakers, split

import aronnax
from aronnax.collections.common.results.rttm import read_rttm
from aronnax.collections.diarization.simulation.config import SimulationConfig
from aronnax.collections.diarization.simulation.planning import Span

GRID = 0.01
"""Seconds."""
ROOMS = Loudness(session_db=(-6.0, 6.0), tilt=0.0, noise_probability=1.0, noise_db=(10.0, 20.0))


@dataclass
class Errors:
    """Speaker steps, added up over sessions."""

    spoken: int = 0
    missed: int = 0
    false_alarm: int = 0
    confused: int = 0
    confused_in_order: int = 0
    sessions: int = 0
    order_right: int = 0
    first_right: int = 0
    one_speaker: int = 0
    """Errors of saying that one speaker speaks all the time."""
    by_session: list[float] = field(default_factory=list)

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """Two activities [T, N], the columns of the first in the order of arrival."""
        width = max(reference.shape[1], found.shape[1])
        reference, found = (
            np.pad(one, ((0, 0), (0, width - one.shape[1]))).astype(np.int64) for one in (reference, found)
        )
        said, heard = reference.sum(1), found.sum(1)
        both = np.minimum(said, heard).sum()
        fits = reference.T @ found
        best = fits[linear_sum_assignment(fits, maximize=True)].sum()
        missed, false_alarm = np.maximum(said - heard, 0).sum(), np.maximum(heard - said, 0).sum()
        self.spoken += int(said.sum())
        self.missed += int(missed)
        self.false_alarm += int(false_alarm)
        self.confused += int(both - best)
        self.confused_in_order += int(both - np.trace(fits))
        self.sessions += 1
        self.order_right += bool(np.trace(fits) == best and best > 0)
        self.first_right += bool(fits[0].argmax() == 0 and fits[0, 0] > 0)
        # One speaker all along is right about whoever says most, and a false alarm in the silence.
        self.one_speaker += int(np.maximum(said - 1, 0).sum() + (said == 0).sum())
        self.one_speaker += int((said > 0).sum() - reference.sum(0).max())
        self.by_session.append(float((missed + false_alarm + both - best) / max(1, said.sum())))

    def rates(self) -> dict[str, float]:
        """Everything in per cent."""
        wrong, share = self.missed + self.false_alarm, 100 / max(1, self.spoken)
        return {
            "sessions": self.sessions,
            "der": share * (wrong + self.confused),
            "missed": share * self.missed,
            "false_alarm": share * self.false_alarm,
            "confusion": share * self.confused,
            "der_in_order": share * (wrong + self.confused_in_order),
            "order_right": 100 * self.order_right / max(1, self.sessions),
            "first_right": 100 * self.first_right / max(1, self.sessions),
            "one_speaker": share * self.one_speaker,
        }


class Fresh:
    """A speaker who says nothing twice while there is something new to say."""

    def __init__(self, speaker: Speaker, seconds: float = 2.0) -> None:
        self.speaker, self.name = speaker, speaker.name
        self.piece = speaker.piece
        self.pieces = [
            Span(span.index, start, min(start + round(seconds * RATE), span.stop))
            for spans in speaker.spans
            for span in spans
            for start in range(span.start, span.stop - RATE // 2, round(seconds * RATE))
        ]
        self.left: list[Span] = []

    def draw(self, rng: random.Random) -> Span:
        """A stretch that was not drawn before."""
        if not self.left:
            self.left = rng.sample(self.pieces, len(self.pieces))
        return self.left.pop()


def grid(turns: Iterable[tuple[str, float, float]], seconds: float, names: Sequence[str]) -> np.ndarray:
    """Turns as activity [T, N] in steps of GRID."""
    active = np.zeros((round(seconds / GRID), max(1, len(names))), bool)
    for name, start, end in turns:
        active[round(start / GRID) : round(end / GRID), names.index(name)] = True
    return active


def judge(
    model: aronnax.Model,
    speakers: Sequence[Speaker],
    surroundings: Surroundings,
    config: SimulationConfig,
    loudness: Loudness,
    count: int,
    *,
    fresh: bool = False,
    told: int | None = None,
) -> Errors:
    """The errors on simulated sessions, 1 to `count`; `told` is how many speakers the model is told there are."""
    errors = Errors()
    for number in range(count):
        rng = random.Random(f"test {number}")
        pool = [Fresh(speaker) for speaker in speakers] if fresh else speakers
        made = session(pool, surroundings, config, loudness, rng)
        reference = grid(
            [(turn.speaker, turn.at / RATE, turn.end / RATE) for turn in made.turns],
            config.seconds,
            made.names,
        )
        found = model.diarize((made.signal, RATE), num_speakers=told)
        errors.add(reference, heard(found, config.seconds))
    return errors


def heard(found: object, seconds: float) -> np.ndarray:
    """What a diarization says, a column for each of the model's outputs."""
    turns = [(turn.speaker, turn.start, turn.end) for turn in found.turns]
    return grid(turns, seconds, list(found.names))


def judge_meetings(model: aronnax.Model, folder: Path) -> dict[str, dict[str, float]]:
    """The errors on labelled recordings, each and all together."""
    total, rows = Errors(), {}
    for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        (turns,) = read_rttm(folder / entry["rttm_filepath"]).values()
        names = list(dict.fromkeys(turn.speaker for turn in turns))
        reference = grid([(turn.speaker, turn.start, turn.end) for turn in turns], entry["duration"], names)
        found = heard(model.diarize(folder / entry["audio_filepath"]), entry["duration"])[: len(reference)]
        one = Errors()
        for errors in (total, one):
            errors.add(reference, found)
        rows[Path(entry["audio_filepath"]).stem] = {**one.rates(), "speakers": len(names)}
    return {"all": total.rates(), **rows}


def main() -> None:
    """Every measurement, printed as it comes."""
    path, *pairs = sys.argv[1:]
    options = {"sessions": "60", **dict(pair.split("=", 1) for pair in pairs)}
    model, count = aronnax.load(path), int(options["sessions"])
    _, clips, long = split(read_speakers(options["voices"]))
    clips = clips[CALIBRATION_CLIPS:]
    surroundings = Surroundings.read(options.get("rir_noise"))
    results: dict[str, dict[str, float]] = {}
    plain = SimulationConfig(seconds=30.0, room_probability=0.0)
    plans = [(f"{n} speakers, 30 s", replace(plain, speakers=(n,)), CLEAN, clips, False) for n in (2, 3, 4)]
    plans += [
        (
            "2 speakers, 12 s, nothing said twice",
            replace(plain, speakers=(2,), seconds=12.0),
            CLEAN,
            clips,
            True,
        ),
        ("2 speakers of many recordings, 30 s", replace(plain, speakers=(2,)), CLEAN, long, True),
        ("1 speaker, 30 s", replace(plain, speakers=(1,)), CLEAN, clips, False),
    ]
    if not options.get("quick"):
        plans += [
            (f"{n} speakers, 90 s", replace(plain, speakers=(n,), seconds=90.0), CLEAN, clips, False)
            for n in (2, 3, 4)
        ]
        if surroundings.rooms:
            roomy = replace(plain, room_probability=1.0)
            plans += [
                (f"{n} speakers, 30 s, room and noise", replace(roomy, speakers=(n,)), ROOMS, clips, False)
                for n in (2, 3, 4)
            ]
    for name, config, loudness, speakers, fresh in plans:
        sessions = max(1, count // 3) if config.seconds > 60 else count
        results[name] = judge(model, speakers, surroundings, config, loudness, sessions, fresh=fresh).rates()
        show(name, results[name])
    for n in (2, 3):
        name, config = f"{n} speakers, 30 s, told how many", replace(plain, speakers=(n,))
        results[name] = judge(model, clips, surroundings, config, CLEAN, count, told=n).rates()
        show(name, results[name])
    if "ami" in options:
        meetings = judge_meetings(model, Path(options["ami"]))
        for name, rates in meetings.items():
            results[f"AMI {name}"] = rates
            show(f"AMI {name}", rates)
    if "out" in options:
        rounded = {
            name: {key: round(value, 2) for key, value in rates.items()} for name, rates in results.items()
        }
        Path(options["out"]).write_text(json.dumps(rounded, indent=1) + "\n")


def show(name: str, rates: dict[str, float]) -> None:
    """One line of the table."""
    print(
        f"{name:40} DER {rates['der']:5.1f} % (missed {rates['missed']:.1f}, false alarm {rates['false_alarm']:.1f},"
        f" confusion {rates['confusion']:.1f}), in order {rates['der_in_order']:.1f},"
        f" order right {rates['order_right']:.0f} %, first right {rates['first_right']:.0f} %,"
        f" one speaker all along {rates['one_speaker']:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) < 2 or "--help" in sys.argv:
        print(__doc__)
    else:
        main()
