from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.diarization.sortformer import streaming
from aronnax.collections.diarization.sortformer.config import Profile
from aronnax.collections.diarization.sortformer.model import SortformerModel
from aronnax.collections.diarization.sortformer.streaming import PROFILES, StreamState
from aronnax.core.errors import AudioError, ConfigError, OptionError
from tests.diarization.conftest import tiny

SMALL = Profile(chunk=6, right=7, fifo=30, update=20, cache=48)


def streamed(
    model: SortformerModel, samples: np.ndarray, size: int, profile: Profile = SMALL
) -> torch.Tensor:
    stream = model.stream(profile=profile)
    pieces = [stream.push(samples[start : start + size]) for start in range(0, len(samples), size)]
    return torch.cat([*pieces, stream.finish()])


@torch.inference_mode()
def test_one_chunk_that_holds_all_is_the_offline_pass(model: SortformerModel, session: np.ndarray) -> None:
    signal, lengths = torch.from_numpy(session)[None], torch.tensor([len(session)])
    offline = model(signal, lengths).probabilities[0]
    whole = Profile(chunk=1000, right=0, fifo=0, update=1000)
    assert (streamed(model, session, 16000, whole) - offline).abs().max() < 1e-5
    assert offline.std(0).max() > 0.05


def test_frames_are_the_same_numbers_however_the_samples_arrive(
    model: SortformerModel, session: np.ndarray
) -> None:
    whole = streamed(model, session, len(session))
    for size in (160000, 16000, 1237):
        assert torch.equal(streamed(model, session, size), whole), size
    short = session[:20007]
    assert torch.equal(streamed(model, short, 1), streamed(model, short, len(short)))


@torch.inference_mode()
def test_a_stream_hears_what_chunks_of_the_whole_recording_give(
    model: SortformerModel, session: np.ndarray
) -> None:
    signal, lengths = torch.from_numpy(session)[None], torch.tensor([len(session)])
    chunks = model.forward_streaming(signal, lengths, SMALL).probabilities[0]
    torch.testing.assert_close(streamed(model, session, 4000), chunks, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_row_of_a_ragged_batch_is_the_row_alone(model: SortformerModel, session: np.ndarray) -> None:
    lengths = torch.tensor([len(session), 300007, 1000, 80])
    signal = torch.stack([torch.from_numpy(np.roll(session, 1000 * row)) for row in range(4)])
    for way in (model, lambda x, n: model.forward_streaming(x, n, SMALL)):
        together = way(signal, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = way(signal[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths[0])
            assert int(together.lengths[row]) == frames
            ours = together.probabilities[row]
            torch.testing.assert_close(ours[:frames], alone.probabilities[0, :frames], atol=1e-4, rtol=0)
            assert not ours[frames:].any()


@torch.inference_mode()
def test_streams_at_different_positions_share_a_batch(model: SortformerModel, session: np.ndarray) -> None:
    factor = 8
    features = model.features(torch.from_numpy(session)[None], torch.tensor([len(session)]))[0][0]

    def piece(chunk: int) -> tuple[torch.Tensor, int]:
        start = chunk * SMALL.chunk * factor
        context = min(start, SMALL.left * factor)
        return features[start - context : start + (SMALL.chunk + SMALL.right) * factor], context // factor

    def advance(
        memory: streaming.SpeakerMemory, chunks: list[int]
    ) -> tuple[torch.Tensor, streaming.SpeakerMemory]:
        pieces, left = zip(*(piece(chunk) for chunk in chunks))
        padded = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
        held = torch.tensor([len(one) for one in pieces])
        said, _, memory = streaming.step(model, memory, padded, held, torch.tensor(left), profile=SMALL)
        return said, memory

    early, late = streaming.new_memory(model, SMALL), streaming.new_memory(model, SMALL)
    for chunk in range(20):
        _, late = advance(late, [chunk])
    names = early.tensors()
    both = streaming.SpeakerMemory(**{name: torch.cat([names[name], late.tensors()[name]]) for name in names})
    for chunk in range(12):
        a, early = advance(early, [chunk])
        b, late = advance(late, [20 + chunk])
        together, both = advance(both, [chunk, 20 + chunk])
        torch.testing.assert_close(together, torch.cat([a, b]), atol=1e-4, rtol=0)
    torch.testing.assert_close(both.select(torch.tensor([1])).cache, late.cache, atol=1e-4, rtol=0)


def test_a_saved_state_goes_on_where_it_stood(
    model: SortformerModel, session: np.ndarray, tmp_path: Path
) -> None:
    whole = streamed(model, session, 16000)
    first = model.stream(profile=SMALL)
    head = first.push(session[:234567])
    save_file(first.state.tensors(), tmp_path / "stream.safetensors")
    state = StreamState.from_tensors(load_file(tmp_path / "stream.safetensors"))
    second = model.stream(profile=SMALL, state=state)
    tail = [second.push(session[234567:]), second.finish()]
    assert torch.equal(torch.cat([head, *tail]), whole)
    with pytest.raises(OptionError, match="saved with others"):
        model.stream(profile=Profile(cache=64), state=state)


def test_the_memory_of_a_stream_does_not_grow(model: SortformerModel, session: np.ndarray) -> None:
    stream = model.stream(latency=30.4)
    sizes = []
    for _ in range(8):
        stream.push(session)
        sizes.append(sum(tensor.numel() for tensor in stream.state.tensors().values()))
    # What waits is less than a chunk, its right context and the samples between.
    assert max(sizes[3:]) <= max(sizes[:3]) + (340 + 40 + 1) * 8 * (16 + 160)


@pytest.mark.slow
@pytest.mark.parametrize(("latency", "minutes"), [(30.4, 40), (1.04, 8)])
def test_the_process_needs_no_more_memory_however_long_it_listens(
    model: SortformerModel, session: np.ndarray, latency: float, minutes: int
) -> None:
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("the memory of the process is read from /proc")
    stream, minute = model.stream(latency), np.tile(session, 2)[: 60 * 16000]
    pages = []
    for _ in range(minutes):
        stream.push(minute)
        pages.append(int(status.read_text().split()[1]))
    # The first quarter fills the cache, and the libraries' own. At 1.04 s the states of all steps would be 18 MiB,
    # at 30.4 s the samples 110.
    assert (max(pages[-2:]) - pages[minutes // 4]) * 4096 < 8 * 2**20


def test_the_latency_is_that_of_the_profile(model: SortformerModel, session: np.ndarray) -> None:
    for latency, profile in PROFILES.items():
        assert (profile.chunk + profile.right) * 0.08 == pytest.approx(latency, abs=0.081)
        stream = model.stream(latency=latency)
        pushed = 0
        while not len(stream.push(session[pushed : pushed + 160])):
            pushed += 160
            assert pushed < 16000 * (latency + 0.2)


@pytest.mark.parametrize("bad", ["nan", "rate", "stereo", "integers", "finished"])
def test_bad_pushes_are_refused_in_a_sentence(model: SortformerModel, bad: str) -> None:
    stream = model.stream(latency=1.04)
    stream.push(np.zeros(1000, np.float32))
    samples = np.zeros(500, np.float32)
    if bad == "nan":
        samples[17] = np.nan
        with pytest.raises(AudioError, match=r"sample 1017 .* is NaN or infinite"):
            stream.push(samples)
    elif bad == "rate":
        with pytest.raises(AudioError, match="8000 Hz but the model hears 16000 Hz"):
            stream.push(samples, sample_rate=8000)
    elif bad == "stereo":
        with pytest.raises(AudioError, match="one channel"):
            stream.push(np.zeros((2, 500), np.float32))
    elif bad == "integers":
        with pytest.raises(AudioError, match="floats"):
            stream.push(np.zeros(500, np.int16))
    else:
        stream.finish()
        with pytest.raises(OptionError, match="finished"):
            stream.push(samples)


def test_unknown_latencies_and_models_that_cannot_stream_are_refused(model: SortformerModel) -> None:
    with pytest.raises(OptionError, match=r"0\.32, 1\.04, 10\.0, 30\.4"):
        model.stream(latency=2.0)
    with pytest.raises(ConfigError, match="too short for 4 speakers"):
        model.stream(profile=Profile(cache=10))
    whole = tiny(preprocessor=LogMelConfig(n_mels=16), streaming=False)
    with pytest.raises(OptionError, match="over the whole recording"):
        whole.stream(latency=1.04)


def test_streaming_training_shuffles_speakers_limits_attention_and_gives_gradients(
    session: np.ndarray,
) -> None:
    model = tiny(limited_rate=1.0, limited_right=2).train()
    signal = torch.from_numpy(session[: 16000 * 20])[None].repeat(2, 1)
    seen = []
    activity = model.activity

    def watched(*args: torch.Tensor, right: int | None = None) -> torch.Tensor:
        seen.append(right)
        return activity(*args, right=right)

    model.activity = watched  # type: ignore[method-assign]
    found = model.forward_streaming(signal, torch.tensor([16000 * 20, 16000 * 11]), SMALL)
    assert set(seen) == {2}
    found.probabilities.sum().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("speakers", [1, 2, 8])
@torch.inference_mode()
def test_other_numbers_of_speakers_stream_too(speakers: int, session: np.ndarray) -> None:
    model = tiny(speakers)
    profile = Profile(chunk=10, right=2, fifo=10, update=10, cache=40)
    found = streamed(model, session[: 16000 * 15], 8000, profile)
    assert found.shape == (188, speakers)


def test_more_than_eight_speakers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"outside 1\.\.8"):
        tiny(9)
