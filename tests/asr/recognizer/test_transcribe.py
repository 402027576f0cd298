"""`transcribe`: every kind of input gives the same result, alone or in a batch, serially or at once."""

from __future__ import annotations

import gc
import io
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.asr.hybrid.model import HybridModel
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.results import Transcript
from aronnax.core.errors import OptionError
from tests.asr.recognizer.conftest import RATE, noises
from tests.asr.recognizer.tones import FRAME, ToneModel, expected_words, random_plan, spoken
from tests.asr.recognizer.tones import RATE as TONE_RATE


def one(result: Transcript | list[Transcript]) -> Transcript:
    assert isinstance(result, Transcript)
    return result


def assert_same(found: Transcript, expected: Transcript) -> None:
    """The same text and times; confidences within float rounding."""
    assert found.text == expected.text
    assert [(w.text, w.start, w.end) for w in found.words] == [
        (w.text, w.start, w.end) for w in expected.words
    ]
    assert [w.confidence for w in found.words] == pytest.approx(
        [w.confidence for w in expected.words], abs=1e-4
    )


def test_words_times_and_duration_are_those_of_the_recording(tone_model: ToneModel) -> None:
    plan = random_plan(400)
    transcript = one(tone_model.transcribe((spoken(plan, 0, 400 * FRAME), TONE_RATE)))
    assert [(word.text, word.start, word.end) for word in transcript.words] == expected_words(plan)
    assert transcript.text == " ".join(word for word, _, _ in expected_words(plan))
    assert transcript.duration == 400 * FRAME / TONE_RATE
    assert transcript.notes == ()


def test_every_kind_of_input_gives_the_same_transcript(model: HybridModel, talk: Path) -> None:
    samples, rate = soundfile.read(talk, dtype="float32")
    expected = one(model.transcribe(talk))
    assert expected.text
    assert expected.source == str(talk)
    for x in (
        str(talk),
        talk.read_bytes(),
        io.BytesIO(talk.read_bytes()),
        (samples, rate),
        (torch.from_numpy(samples), rate),
        (np.stack([samples, samples]), rate),
        {"audio_filepath": str(talk)},
    ):
        assert_same(one(model.transcribe(x)), expected)
    assert_same(one(model.transcribe(samples, sample_rate=rate)), expected)
    assert_same(one(model.transcribe(torch.from_numpy(samples), sample_rate=rate)), expected)
    for several in ([talk], (str(talk),), iter([talk]), talk.parent):
        (transcript,) = model.transcribe(several)
        assert_same(transcript, expected)


def test_lhotse_cuts_are_inputs(model: HybridModel, talk: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    cut = lhotse.Recording.from_file(talk).to_cut()
    expected = one(model.transcribe(talk))
    assert_same(one(model.transcribe(cut)), expected)
    (from_set,) = model.transcribe(lhotse.CutSet.from_cuts([cut]))
    assert_same(from_set, expected)
    assert from_set.source == cut.id


def test_a_manifest_gives_a_transcript_a_line_and_honours_offsets(model: HybridModel, talk: Path) -> None:
    lines = [
        {"audio_filepath": talk.name, "lang": "de"},
        {"audio_filepath": str(talk), "offset": 1.0, "duration": 1.5},
        {"audio_filepath": str(talk), "offset": 2.0},
    ]
    manifest = talk.parent / "lines.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, middle, end = model.transcribe(manifest)
    samples, _ = soundfile.read(talk, dtype="float32")
    assert_same(whole, one(model.transcribe(talk)))
    assert whole.language == "de"
    assert_same(middle, one(model.transcribe((samples[RATE : 2 * RATE + RATE // 2], RATE))))
    assert middle.duration == 1.5
    assert_same(end, one(model.transcribe((samples[2 * RATE :], RATE))))


def test_a_list_keeps_its_order_and_an_empty_one_stays_empty(tone_model: ToneModel) -> None:
    plans = [random_plan(60 + 37 * (i * 7 % 11), seed=i) for i in range(23)]
    recordings = [(spoken(plan, 0, 500 * FRAME), TONE_RATE) for plan in plans]
    found = tone_model.transcribe(recordings, batch_size=3)
    assert [t.text for t in found] == [" ".join(w for w, _, _ in expected_words(plan)) for plan in plans]
    assert tone_model.transcribe([]) == []


@pytest.mark.parametrize("head", ["tdt", "ctc"])
def test_padding_and_batching_do_not_change_a_row(model: HybridModel, head: str) -> None:
    recordings = noises([0.3, 5.0, 1.2, 2.71, 0.99, 4.0, 3.3])
    alone = [one(model.transcribe(recording, head=head)) for recording in recordings]
    assert sum(len(transcript.text) for transcript in alone) > 30
    for batch_size in (2, 7):
        for found, expected in zip(model.transcribe(recordings, head=head, batch_size=batch_size), alone):
            assert_same(found, expected)


def test_options_choose_what_is_computed(model: HybridModel, talk: Path) -> None:
    assert one(model.transcribe(talk, head="ctc")).text != one(model.transcribe(talk, head="tdt")).text
    bare = one(model.transcribe(talk, timestamps=False))
    assert (bare.words, bare.segments) == ((), ())
    assert bare.text == one(model.transcribe(talk)).text
    unsure = one(model.transcribe(talk, confidence=None))
    assert {word.confidence for word in unsure.words} == {None}
    assert one(model.transcribe(talk, language="en")).language == "en"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "rnnt"}, "head 'rnnt'.*tdt, ctc"),
        ({"confidence": "certain"}, "confidence='certain'.*'tsallis', 'max_prob', None"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"chunk": "big"}, "chunk='big'"),
        ({"chunk": -1.0}, "chunk=-1.0"),
        ({"chunk": float("nan")}, "chunk=nan"),
        ({"vad": "loud"}, "vad='loud'"),
    ],
)
def test_an_option_the_model_cannot_honour_is_named(model: HybridModel, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        model.transcribe(noises([1.0])[0], **options)


def test_a_model_in_training_mode_is_refused_and_left_as_it_is(model: HybridModel) -> None:
    model.train()
    try:
        with pytest.raises(OptionError, match="eval"):
            model.transcribe(noises([1.0])[0])
        assert model.training
    finally:
        model.eval()


def state_of(model: SpeechRecognizer) -> dict[str, object]:
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: value.requires_grad for name, value in model.named_parameters()}
    return {"modes": modes, "weights": weights, "grads": grads, "config": model.config}


def test_transcribing_changes_nothing_in_the_model_or_the_process(model: HybridModel, talk: Path) -> None:
    before = state_of(model)
    level, grad, threads = logging.getLogger().level, torch.is_grad_enabled(), torch.get_num_threads()
    model.transcribe([talk, talk], vad="energy", head="ctc")
    after = state_of(model)
    assert after["modes"] == before["modes"]
    assert after["grads"] == before["grads"]
    assert after["config"] == before["config"]
    assert all(torch.equal(after["weights"][k], v) for k, v in before["weights"].items())
    assert (logging.getLogger().level, torch.is_grad_enabled(), torch.get_num_threads()) == (
        level,
        grad,
        threads,
    )


def test_a_model_can_still_be_trained_after_it_transcribed(model: HybridModel) -> None:
    signal = torch.from_numpy(noises([2.0])[0][0])[None]
    model.transcribe((signal[0], RATE))
    states = model.encode(signal, torch.tensor([signal.shape[1]])).states
    states.sum().backward()
    assert any(parameter.grad is not None for parameter in model.encoder.parameters())
    model.zero_grad()


def test_sixteen_threads_at_once_give_the_serial_results(model: HybridModel) -> None:
    recordings = noises([0.5 + 0.37 * i for i in range(16)])
    heads = ["tdt", "ctc"] * 8
    serial = [one(model.transcribe(x, head=head)) for x, head in zip(recordings, heads)]
    ready = threading.Barrier(16)

    def work(i: int) -> Transcript:
        ready.wait()
        for _ in range(3):
            found = one(model.transcribe(recordings[i], head=heads[i]))
        return found

    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(work, range(16)))
    for found, expected in zip(at_once, serial):
        assert_same(found, expected)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_two_thousand_calls_do_not_grow_memory_or_threads(tone_model: ToneModel) -> None:
    recording = (spoken(random_plan(20), 0, 20 * FRAME), TONE_RATE)
    for _ in range(200):
        tone_model.transcribe(recording)
        tone_model.transcribe([recording, recording])
    gc.collect()
    before = resident_bytes()
    for _ in range(1000):
        tone_model.transcribe(recording)
        tone_model.transcribe([recording, recording])
    gc.collect()
    assert resident_bytes() - before < 8 * 2**20
    assert sum(thread.name == "aronnax-reading" for thread in threading.enumerate()) <= 1


def test_results_come_as_they_finish_from_an_endless_input(tone_model: ToneModel) -> None:
    recording = (spoken(random_plan(20), 0, 20 * FRAME), TONE_RATE)
    made = 0

    def endless() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal made
        while True:
            made += 1
            yield recording

    results = tone_model.transcribe_iter(endless(), batch_size=2)
    indices = [next(results).index for _ in range(50)]
    results.close()
    assert indices == list(range(50))
    assert made < 150  # read a little ahead, not for ever


def test_an_error_in_the_callers_own_iterator_reaches_the_caller(tone_model: ToneModel) -> None:
    def broken() -> Iterator[tuple[np.ndarray, int]]:
        yield spoken(random_plan(20), 0, 20 * FRAME), TONE_RATE
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="database went away"):
        tone_model.transcribe(broken())


def test_progress_counts_all_seconds_of_audio(model: HybridModel) -> None:
    recordings = noises([1.0, 2.5, 4.0])
    for options in ({}, {"chunk": 2.0}, {"vad": "energy"}, {"chunk": "local"}):
        heard: list[float] = []
        model.transcribe(recordings, progress=heard.append, **options)
        assert sum(heard) == pytest.approx(7.5)
        assert all(seconds >= 0 for seconds in heard)


def test_very_short_audio_keeps_its_times_inside_its_duration(model: HybridModel) -> None:
    for seconds in (0.1, 0.25, 0.6, 0.999):
        transcript = one(model.transcribe(noises([seconds], seed=3)[0]))
        assert transcript.duration == pytest.approx(seconds, abs=1e-4)
        assert all(0 <= word.start <= word.end <= transcript.duration for word in transcript.words)
