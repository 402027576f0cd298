"""Test multi-speaker recognition of digits on two speakers it has not heard; prints a table and writes JSON.

python examples/diarization/multispeaker/measure.py WITH WITHOUT data.fsdd=FSDD [out=FILE] [sessions=200]
    [test=george,yweweler]

cpWER is that of all sessions together: words of each speaker against those of who was found for them, by MeetEval.
"oracle" gives the model the turns that were mixed, "diarizer" what the diarizer in its checkpoint finds.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[2] / "asr" / "digits"))

import numpy as np
from sessions import make, plan
from voices import RATE, Voice, load_fsdd

import aronnax
from aronnax.collections.common.metrics import ErrorCounts, score
from aronnax.collections.common.metrics.speaker_words import score_speaker_words
from aronnax.collections.common.results import Diarization, Transcript
from aronnax.collections.common.results.spoken import Spoken
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.multispeaker.serialisation import Utterance

SECONDS = 8.0
SEED = 2026


@dataclass(frozen=True)
class Test:
    """A session, and the truth about it."""

    signal: np.ndarray
    active: np.ndarray
    utterances: tuple[Utterance, ...]
    turns: Diarization


def tests(fsdd: str, speakers: Sequence[str], count: int, overlap: float) -> list[Test]:
    """Sessions of these speakers, the same for every model."""
    clips = load_fsdd(Path(fsdd))
    voices = [Voice(name, clips[name]) for name in speakers]
    made = []
    for number in range(count):
        rng = random.Random(f"{SEED} test {number}")
        config = plan(SECONDS, len(voices), overlap)
        session, turns = make(voices, config, rng, varied=False, columns=len(voices), name=str(number))
        made.append(Test(session.signal.numpy(), session.activity, session.utterances, turns))
    return made


def transcribe(model: MultispeakerModel, sessions: Sequence[Test], **options: Any) -> list[Transcript]:
    """What a model makes of the sessions."""
    found = model.transcribe(
        [(one.signal, RATE) for one in sessions], batch_size=16, confidence=None, **options
    )
    assert isinstance(found, list)
    return found


def cpwer(sessions: Sequence[Test], found: Sequence[Transcript]) -> ErrorCounts:
    """Errors in words and in who says them."""
    reference = {
        str(number): [
            Spoken(str(said.speaker), word, start, start)
            for said in one.utterances
            for word, start in zip(said.words, said.starts)
        ]
        for number, one in enumerate(sessions)
    }
    hypothesis = {
        str(number): [Spoken(word.speaker or "", word.text, word.start, word.start) for word in one.words]
        for number, one in enumerate(found)
    }
    scored = score_speaker_words(reference, hypothesis)
    return sum((one.cp for one in scored.values()), ErrorCounts())


def wer(sessions: Sequence[Test], found: Sequence[Transcript]) -> ErrorCounts:
    """Errors in words whoever says them, in the order in which they begin."""
    said = [
        sorted((start, word) for said in one.utterances for word, start in zip(said.words, said.starts))
        for one in sessions
    ]
    texts = [" ".join(word for _, word in words) for words in said]
    return score(texts, [one.text for one in found]).words


def frame_errors(sessions: Sequence[Test], found: Sequence[Diarization]) -> float:
    """Share of the diarizer's speaker frames that are wrong, its n-th speaker taken for the n-th to arrive."""
    wrong = spoken = 0.0
    for one, heard in zip(sessions, found):
        assert heard.probabilities is not None
        frames = min(len(heard.probabilities), len(one.active))
        said, truth = heard.probabilities[:frames, : one.active.shape[1]] > 0.5, one.active[:frames] > 0.5
        spoken += truth.sum()
        wrong += np.maximum(said.sum(1), truth.sum(1)).sum() - (said & truth).sum()
    return float(wrong / spoken)


def measure(
    supervised: MultispeakerModel, alone: MultispeakerModel, sessions: Sequence[Test]
) -> dict[str, Any]:
    """Every condition with every head, printed as it comes."""
    assert supervised.diarizer is not None
    found = supervised.diarizer.diarize([(one.signal, RATE) for one in sessions])
    assert isinstance(found, list)
    said = sum(int((one.active.sum(1) > 0).sum()) for one in sessions)
    both = sum(int((one.active.sum(1) > 1).sum()) for one in sessions)
    row: dict[str, Any] = {"sessions": len(sessions), "overlap": round(both / said, 4)}
    row["diarizer, wrong speaker frames"] = round(frame_errors(sessions, found), 4)
    print(f"{len(sessions)} sessions: {row}", flush=True)
    conditions = {
        "without kernel": (alone, None),
        "with kernel, oracle": (supervised, [one.turns for one in sessions]),
        "with kernel, diarizer": (supervised, found),
    }
    for head in supervised.heads:
        for name, (model, diarization) in conditions.items():
            transcripts = transcribe(model, sessions, head=head, diarization=diarization)
            errors, words = cpwer(sessions, transcripts), wer(sessions, transcripts)
            row[f"{head}, {name}"] = {"cpwer": errors.to_dict(), "wer": words.to_dict()}
            print(f"  {head}, {name}: cpWER {errors}; WER {100 * words.rate:.1f} %", flush=True)
    return row


def main() -> None:
    """Measure at every share of overlap, and write the numbers where `out` says."""
    with_kernel, without, *pairs = sys.argv[1:]
    options = {"sessions": "200", "test": "george,yweweler", **dict(pair.split("=", 1) for pair in pairs)}
    supervised, alone = aronnax.load(with_kernel, device="cpu"), aronnax.load(without, device="cpu")
    assert isinstance(supervised, MultispeakerModel)
    assert isinstance(alone, MultispeakerModel)
    assert alone.kernel is None
    tested = options["test"].split(",")
    results = {}
    for overlap, share in ((0.2, 1), (0.0, 4), (0.4, 4)):
        sessions = tests(options["data.fsdd"], tested, int(options["sessions"]) // share, overlap)
        results[f"overlap of {overlap:.0%} asked for"] = measure(supervised, alone, sessions)
        if "out" in options:
            Path(options["out"]).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3 or "--help" in sys.argv:
        print(__doc__)
    else:
        main()
