"""Labels of diarization batches: exact against the supervisions, and none lost between windows."""

import numpy as np
import pytest
import torch
from lhotse import SupervisionSegment

from aronnax.collections.common.data.recordings import made_cut
from aronnax.collections.diarization.batch import MakeDiarizationBatch, activity, windows

RATE, FRAME = 16000, 1280


def turn(speaker, start, end):
    return SupervisionSegment(f"{speaker}-{start}", "r", start, end - start, speaker=speaker)


def zeros_cut(seconds, turns, name="session"):
    cut = made_cut(Silence(round(seconds * RATE)), round(seconds * RATE), RATE, "", name)
    cut.supervisions = turns
    return cut


class Silence:
    def __init__(self, samples):
        self.samples = samples

    def __call__(self):
        return np.zeros(self.samples, np.float32)


def random_turns(seed, seconds=12.0, speakers=4):
    draw = np.random.default_rng(seed)
    starts = draw.uniform(-1.0, seconds, 14)
    return [
        turn(f"s{draw.integers(speakers)}", float(start), float(start + draw.uniform(0.05, 4.0)))
        for start in starts
    ]


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_those_of_the_supervisions(seed):
    turns, samples = random_turns(seed), 12 * RATE + 700
    labels, names = activity(turns, samples, RATE, FRAME, 4)
    assert labels.shape == (151, 4)
    firsts = []
    for column, name in enumerate(names):
        spoken = np.zeros(samples)
        for one in turns:
            if one.speaker == name:
                spoken[max(0, round(one.start * RATE)) : max(0, round(one.end * RATE))] = 1
        firsts.append(spoken.argmax())
        expected = [spoken[at : at + FRAME].mean() >= 0.5 for at in range(0, samples, FRAME)]
        np.testing.assert_array_equal(labels[:, column], np.array(expected, np.float32))
    assert firsts == sorted(firsts)
    assert not labels[:, len(names) :].any()


def test_half_a_frame_is_enough_and_a_sample_less_is_not():
    half = FRAME / 2 / RATE
    assert activity([turn("a", 0.0, half)], FRAME, RATE, FRAME, 1)[0].tolist() == [[1.0]]
    assert activity([turn("a", 0.0, half - 1 / RATE)], FRAME, RATE, FRAME, 1)[0].tolist() == [[0.0]]


def test_of_too_many_speakers_those_who_say_most_stay_in_the_order_of_arrival():
    turns = [turn("short", 0.0, 0.4), turn("b", 1.0, 3.0), turn("a", 2.0, 5.0)]
    labels, names = activity(turns, 5 * RATE, RATE, FRAME, 2)
    assert names == ("b", "a")
    assert not labels[: round(1.0 * RATE / FRAME) - 1].any()


@pytest.mark.parametrize("seed", range(5))
def test_windows_lose_no_label(seed):
    cut = zeros_cut(12.0, [one for one in random_turns(seed, 11.0) if one.start >= 0])
    whole, names = activity(cut.supervisions, 12 * RATE, RATE, FRAME, 4)
    # Windows of whole frames: what they hold, one after the other, is what the session holds.
    pieces = list(windows(cut, 4.0, first=2.4))
    assert [round(piece.duration, 3) for piece in pieces] == [2.4, 4.0, 4.0, 1.6]
    found = np.zeros_like(whole)
    at = 0
    for piece in pieces:
        labels, own = activity(piece.supervisions, piece.num_samples, RATE, FRAME, 4)
        for column, name in enumerate(own):
            found[at : at + len(labels), names.index(name)] = labels[:, column]
        at += len(labels)
    np.testing.assert_array_equal(found, whole)


def test_a_batch_is_padded_and_knows_its_lengths():
    cuts = [zeros_cut(2.0, [turn("a", 0.5, 1.5)], "one"), zeros_cut(1.0, [], "two")]
    make = MakeDiarizationBatch(RATE, FRAME, 3)
    batch = make(cuts, [torch.from_numpy(cut.load_audio()[0]) for cut in cuts])
    assert batch.signal.shape == (2, 2 * RATE)
    assert batch.labels.shape == (2, 25, 3)
    assert batch.signal_lengths.tolist() == [2 * RATE, RATE]
    assert batch.label_lengths.tolist() == [25, 13]
    assert batch.ids == ["one", "two"]
    assert batch.speakers == [("a",), ()]
    assert not batch.labels[1].any()
    assert batch.to("cpu").labels.equal(batch.labels)
