"""Long recordings: exact to the frame, nothing lost, nothing said twice, in bounded memory."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from aronnax.collections.asr.hybrid.model import HybridModel
from aronnax.collections.asr.long_form import memory, plan
from aronnax.collections.asr.long_form.windows import Windows, windows_over
from aronnax.collections.common.free_memory import free_bytes
from aronnax.collections.common.metrics.wer import score
from aronnax.collections.common.results import Transcript
from aronnax.core.errors import OptionError
from tests.asr.recognizer.conftest import RATE, noises
from tests.asr.recognizer.tones import FRAME, ToneModel, expected_words, random_plan, spoken, write_wav
from tests.asr.recognizer.tones import RATE as TONE_RATE

GIB = 2**30


def times(transcript: Transcript) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in transcript.words]


def assert_sound(transcript: Transcript) -> None:
    """Words rise, lie inside their segments and inside the recording."""
    words = transcript.words
    assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(words))
    assert [word for segment in transcript.segments for word in segment.words] == list(words)
    assert all(s.start <= w.start and w.end <= s.end for s in transcript.segments for w in s.words)
    assert all(0 <= word.start <= word.end <= transcript.duration for word in words)


@pytest.mark.parametrize(
    "samples", [1, 319, 320, 321, 5 * 320, 5 * 320 + 1, 64_001, 10_000 * 320, 10_000 * 320 + 17]
)
@pytest.mark.parametrize("shape", [(0, 1, 0), (3, 5, 2), (125, 550, 75), (2, 1, 9)])
def test_centres_cover_every_frame_once(samples: int, shape: tuple[int, int, int]) -> None:
    left, centre, right = shape
    following = 0
    windows = list(windows_over(samples, Windows(left, centre, right, 320)))
    for window in windows:
        assert window.start % 320 == 0
        assert window.first == following
        assert window.start // 320 + window.skip == window.first
        assert window.skip == min(left, window.first)
        assert window.keep is None or window.stop == (window.first + centre + right) * 320
        following = window.first + (window.keep or 0)
    assert windows[-1].stop == samples
    assert windows[-1].keep is None
    assert all(window.keep == centre for window in windows[:-1])


@pytest.mark.parametrize("seconds", [0.5, 0.83, 2.0, 7.3, 60.0])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_chunks_give_the_words_of_the_whole(tone_model: ToneModel, seconds: float, batch_size: int) -> None:
    said = random_plan(700, seed=1)
    recording = (spoken(said, 0, 700 * FRAME), TONE_RATE)
    whole = tone_model.transcribe(recording, chunk="full")
    chunked = tone_model.transcribe(recording, chunk=seconds, batch_size=batch_size)
    assert times(chunked) == times(whole) == expected_words(said)
    assert chunked.text == whole.text


def test_a_word_that_crosses_a_border_is_said_once_and_keeps_its_length(tone_model: ToneModel) -> None:
    centre = round(1.0 / (FRAME / TONE_RATE))
    said = [(3, border - 2, 4) for border in range(centre, 200, centre)]
    recording = (spoken(said, 0, 210 * FRAME), TONE_RATE)
    assert times(tone_model.transcribe(recording, chunk=1.0, batch_size=1)) == expected_words(said)


@pytest.mark.parametrize("head", ["tdt", "ctc"])
def test_decoding_goes_on_over_borders_in_a_real_model(model: HybridModel, head: str) -> None:
    """With the encoder's states the same, cutting them anywhere changes no token and no time."""
    signal = torch.from_numpy(noises([20.0])[0][0])[None]
    with torch.inference_mode():
        encoded = model.encode(signal, torch.tensor([signal.shape[1]]))
        (whole,), _ = model.decode(encoded.states, encoded.lengths, head=head)
        tokens: list[int] = []
        frames: list[int] = []
        carry, at = None, 0
        for size in (1, 7, 30, 2, 110, 100):
            part = encoded.states[:, at : at + size]
            (found,), carry = model.decode(part, torch.tensor([part.shape[1]]), head=head, carry=carry)
            tokens += found.tokens
            frames += [at + frame for frame in found.frames]
            at += size
    assert at == encoded.states.shape[1]
    assert len(tokens) > 20
    assert (tokens, frames) == (whole.tokens, whole.frames)


@pytest.mark.parametrize("head", ["tdt", "ctc"])
def test_a_recording_inside_one_window_is_read_as_a_whole(model: HybridModel, head: str) -> None:
    (recording,) = noises([14.3])
    whole = model.transcribe(recording, chunk="full", head=head)
    # One window: ten seconds of context never reach before the start, the end is within the right context.
    chunked = model.transcribe(recording, chunk=10.0, head=head)
    assert chunked.text == whole.text
    assert times(chunked) == times(whole)


def test_local_attention_reads_at_once_and_is_reported(model: HybridModel) -> None:
    (recording,) = noises([5.0])
    local = model.transcribe(recording, chunk="local")
    assert "local attention" in local.notes[0]
    # Five seconds lie inside the local context, so that nothing is cut off.
    assert local.text == model.transcribe(recording, chunk="full").text


@pytest.fixture(scope="module")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, int]], int]:
    frames = round(7200 * TONE_RATE / FRAME)
    said = random_plan(frames, seed=5)
    path = tmp_path_factory.mktemp("long") / "two hours.wav"
    return write_wav(path, said, frames, tail=123), said, frames * FRAME + 123


def test_two_hours_are_exact_to_the_frame(
    tone_model: ToneModel, two_hours: tuple[Path, list[tuple[int, int, int]], int]
) -> None:
    path, said, samples = two_hours
    transcript = tone_model.transcribe(path)
    expected = expected_words(said)
    assert len(expected) > 6000
    assert transcript.duration == samples / TONE_RATE  # nothing was cut off
    assert times(transcript) == expected
    assert "chunks of 44 s" in transcript.notes[0]
    assert all(word.confidence is not None and 0.3 < word.confidence <= 1 for word in transcript.words)
    assert_sound(transcript)


def test_two_hours_equal_their_parts(
    tone_model: ToneModel, two_hours: tuple[Path, list[tuple[int, int, int]], int]
) -> None:
    path, _, samples = two_hours
    whole = tone_model.transcribe(path)
    part = 600.0
    lines = [
        {"audio_filepath": str(path), "offset": part * i, "duration": part}
        for i in range(int(samples / TONE_RATE // part) + 1)
        if part * i < samples / TONE_RATE
    ]
    parts = [transcript.text for transcript in tone_model.transcribe(lines)]
    said_in = [
        " ".join(word.text for word in whole.words if part * i <= word.start < part * (i + 1))
        for i in range(len(parts))
    ]
    assert score(said_in, parts).words.rate < 0.005


def test_two_hours_take_bounded_memory(
    tone_model: ToneModel, two_hours: tuple[Path, list[tuple[int, int, int]], int]
) -> None:
    path, _, samples = two_hours
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory is read from /proc")
    before, peak, done = resident(statm), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident(statm))
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    tone_model.transcribe(path, batch_size=4)
    done.set()
    watching.join()
    assert peak - before < samples * 4 / 2  # less than half of the signal alone, let alone what is made of it


def resident(statm: Path) -> int:
    return int(statm.read_text().split()[1]) * 4096


def test_the_gate_skips_silence_and_keeps_the_times_of_the_recording(tone_model: ToneModel) -> None:
    said = [(1, 100, 3), (2, 106, 3), (3, 2000, 4), (4, 2009, 2), (5, 3990, 3)]
    recording = (spoken(said, 0, 4000 * FRAME), TONE_RATE)
    transcript = tone_model.transcribe(recording, vad="energy")
    assert times(transcript) == expected_words(said)
    assert transcript.duration == 320.0
    assert "2% of the recording decoded" in transcript.notes[0]
    assert_sound(transcript)


def test_the_gate_chunks_speech_that_is_long(tone_model: ToneModel) -> None:
    said = random_plan(500, seed=2)
    moved = [(word, first + 1000, count) for word, first, count in said]
    recording = (spoken(moved, 0, 2000 * FRAME), TONE_RATE)
    transcript = tone_model.transcribe(recording, vad="energy", chunk=5.0)
    assert times(transcript) == expected_words(moved)


def test_silence_behind_the_gate_is_an_empty_transcript(tone_model: ToneModel) -> None:
    transcript = tone_model.transcribe((np.zeros(40_000, np.float32), TONE_RATE), vad="energy")
    assert (transcript.text, transcript.words, transcript.duration) == ("", (), 10.0)


def chosen(model: HybridModel, seconds: float, *, free: float, chunk: str | float = "auto") -> plan.Plan:
    needed = memory.pass_bytes(model.config, seconds, 4)
    return plan.choose(
        model.config, round(seconds * RATE), chunk=chunk, needed_bytes=needed, free_bytes=round(free)
    )


def test_the_plan_follows_length_and_free_memory(model: HybridModel) -> None:
    assert chosen(model, 30, free=8 * GIB).kind == "full"
    assert chosen(model, 30, free=8 * GIB).note is None
    assert chosen(model, 1800, free=64 * GIB).kind == "local"
    assert chosen(model, 7200, free=64 * GIB).kind == "chunks"
    tight = chosen(model, 1800, free=0.05 * GIB)
    assert tight.kind == "chunks"
    assert "free" in str(tight.note)
    assert chosen(model, 400, free=0.01 * GIB).kind == "chunks"


def test_the_plan_can_be_overridden(model: HybridModel) -> None:
    assert chosen(model, 7200, free=1 * GIB, chunk="full").kind == "full"
    assert chosen(model, 7200, free=1 * GIB, chunk="local").kind == "local"
    twenty = chosen(model, 60, free=64 * GIB, chunk=20.0)
    assert twenty.windows == Windows(left=125, centre=250, right=75, samples_per_frame=1280)
    assert chosen(model, 19, free=64 * GIB, chunk=20.0).kind == "full"
    with pytest.raises(OptionError, match="chunk"):
        plan.check_chunk(0.1)


def test_needed_memory_grows_with_length_and_free_memory_is_plausible(model: HybridModel) -> None:
    needed = [memory.pass_bytes(model.config, seconds, 4) for seconds in (1, 60, 3600)]
    assert needed == sorted(needed)
    assert needed[2] > 30 * needed[1]
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50
