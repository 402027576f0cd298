"""Long recordings, times of words and guards, with random weights."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from aronnax.collections.asr.canary.settling import with_times, without_made_up
from aronnax.collections.asr.encoder import EncoderOutput
from aronnax.collections.asr.hypothesis import Hypothesis
from aronnax.collections.asr.long_form.cuts import pieces_of
from aronnax.collections.common.audio.reading import open_audio
from tests.asr.canary.small_canary import RATE, noises, small_canary


@pytest.fixture(scope="module")
def model():
    return small_canary(longest_seconds=4.0)


def with_pauses(seconds, every):
    """Sound with half a second of silence around each multiple of `every` seconds."""
    ((samples, _),) = noises([seconds], seed=3)
    for at in np.arange(every, seconds, every):
        samples[round((at - 0.25) * RATE) : round((at + 0.25) * RATE)] = 0.0
    return samples


def test_a_long_recording_equals_its_parts_where_it_is_cut_in_silence(model):
    samples = with_pauses(12.0, every=3.0)
    whole = model.transcribe((samples, RATE), guard=False)
    assert any("pieces" in note for note in whole.notes)
    pieces = list(pieces_of(open_audio((samples, RATE), RATE), 4.0, model.samples_per_frame))
    assert len(pieces) >= 3
    parts = [model.transcribe((samples[p.start : p.stop], RATE), guard=False).text for p in pieces]
    # Random weights begin a piece in the middle of a word, which joins the last one of the piece before.
    assert whole.text.replace(" ", "") == "".join(parts).replace(" ", "")
    assert whole.text


@pytest.mark.parametrize("every", [3.0, 100.0])
def test_words_rise_inside_the_recording(model, every):
    found = model.transcribe((with_pauses(13.0, every), RATE), guard=False)
    assert found.words
    for before, after in pairwise(found.words):
        assert before.start <= after.start
        assert before.start <= before.end
    assert found.words[-1].end <= 13.0
    assert " ".join(word.text for word in found.words) == found.text


def test_a_gate_leaves_silence_out(model):
    samples = np.concatenate(
        [np.zeros(6 * RATE, np.float32), noises([3.0])[0][0], np.zeros(6 * RATE, np.float32)]
    )
    found = model.transcribe((samples, RATE), vad="energy", guard=False)
    assert found.words
    assert found.words[0].start >= 5.0
    assert found.words[-1].end <= 11.0


def test_nospeech_and_unsure_text_over_silence_are_dropped(model):
    sound, silence = noises([2.0])[0][0], np.zeros(2 * RATE, np.float32)
    ids = model.text.encode("the quick fox", "en")
    unsure, sure = [-2.0] * len(ids), [-0.1] * len(ids)
    rows = [
        (Hypothesis(tokens=[model.text.no_speech_id, *ids], log_probs=[0.0, *sure]), sound, False),
        (Hypothesis(tokens=ids, log_probs=unsure), silence, False),
        (Hypothesis(tokens=ids, log_probs=sure), silence, True),
        (Hypothesis(tokens=ids, log_probs=unsure), sound_with_speech(), True),
    ]
    kept = without_made_up(model, [row[0] for row in rows], [row[1] for row in rows])
    assert [bool(one.tokens) for one in kept] == [row[2] for row in rows]


def sound_with_speech():
    """A burst between silences, which the gate takes for speech."""
    return np.pad(noises([1.0])[0][0], RATE // 2)


def test_a_loop_is_cut_off_unless_asked_for(model, monkeypatch):
    word = model.text.encode("fox", "en")
    endless = torch.full((model.config.outputs,), -20.0)

    def log_probs(self, x):
        """One word for ever."""
        scores = endless.expand(*x.shape[:-1], -1).clone()
        scores[..., word[-1]] = 0.0
        return scores

    monkeypatch.setattr(type(model.log_softmax), "logits", log_probs)
    monkeypatch.setattr(type(model.log_softmax), "forward", log_probs)
    sound = noises([3.5])[0]
    guarded, free = model.transcribe(sound), model.transcribe(sound, guard=False)
    assert len(free.text) > 8 * len(guarded.text)


def test_text_that_reaches_the_decoders_most_tokens_is_said_to_be_cut_short(model, monkeypatch):
    sound = noises([3.5])[0]
    ended = [note for note in model.transcribe(sound).notes if "cut short" in note]

    def never_ends(self, x):
        """Two words in turn that no guard takes for a loop, but the end never."""
        scores = torch.randn(*x.shape[:-1], model.config.outputs, generator=draws)
        scores[..., model.text.end_id] = -99.0
        return scores

    draws = torch.Generator().manual_seed(0)
    monkeypatch.setattr(type(model.log_softmax), "logits", never_ends)
    monkeypatch.setattr(type(model.log_softmax), "forward", never_ends)
    long = (np.concatenate([noises([1.0], seed=3)[0][0]] * 12), RATE)
    assert not ended
    assert [note for note in model.transcribe(sound).notes if "cut short" in note]
    assert "cut short" in " ".join(model.transcribe(long, chunk=5).notes)


def test_marked_times_come_first_and_attention_fills_the_rest(model):
    marks = {frame: token for token, frame in model.text.frame_ids.items()}
    fox = model.text.encode("fox", "en")
    prompt = model.encode_prompt({"source_lang": "en", "target_lang": "en"}).prompt
    torch.manual_seed(0)
    encoded = EncoderOutput(torch.randn(2, 20, 24), torch.tensor([20, 12]))
    rows = [Hypothesis(tokens=[marks[3], *fox, marks[6]]), Hypothesis(tokens=fox + fox)]
    with torch.inference_mode():
        timed = with_times(model, rows, [prompt, prompt], encoded, [np.zeros(0)] * 2, [True, True])
    assert timed[0].tokens == fox
    assert timed[0].frames[0] == 3
    assert sum(timed[0].durations) == 3
    assert len(timed[1].frames) == len(timed[1].durations) == 2 * len(fox)
    assert timed[1].frames == sorted(timed[1].frames)
    assert max(timed[1].frames) < 12
