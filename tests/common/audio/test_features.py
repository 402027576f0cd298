from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aronnax.collections.common.audio.features import LogMel, LogMelConfig
from aronnax.core.errors import ConfigError

librosa = pytest.importorskip("librosa")


def front_end(**settings: object) -> LogMel:
    return LogMel(replace(LogMelConfig(), **settings)).eval()


def noise(batch: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "low", "high"),
    [
        (16000, 512, 80, 0, None),
        (16000, 512, 128, 0, None),
        (8000, 256, 40, 60, 3800),
        (16000, 1024, 64, 0, 8000),
    ],
)
def test_filterbank_is_librosas(rate: int, n_fft: int, n_mels: int, low: float, high: float | None) -> None:
    ours = front_end(
        sample_rate=rate, n_fft=n_fft, n_mels=n_mels, low_freq=low, high_freq=high
    ).featurizer.fb[0]
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-8)


@pytest.mark.parametrize("normalize", ["per_feature", "all_features", "none"])
@pytest.mark.parametrize("pad_to", [0, 16])
def test_padding_does_not_change_a_row(normalize: str, pad_to: int) -> None:
    model = front_end(normalize=normalize, pad_to=pad_to)
    lengths = torch.tensor([16000, 7777, 160, 100, 0])
    signal = noise(5, 20000)
    for row, length in enumerate(lengths):
        signal[row, length:] = float("nan")
    features, frames = model(signal, lengths)
    assert frames.tolist() == [100, 48, 1, 0, 0]
    for row, length in enumerate(lengths.tolist()):
        alone, _ = model(signal[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(features[row, : frames[row]], alone[0, : frames[row]], rtol=0, atol=1e-5)
        assert (features[row, frames[row] :] == 0).all()


def test_stored_buffers_are_used_and_named_as_in_the_checkpoints() -> None:
    model = torch.nn.Module()
    model.preprocessor = front_end(normalize="none")
    state = model.state_dict()
    assert set(state) == {"preprocessor.featurizer.window", "preprocessor.featurizer.fb"}
    before = model.preprocessor(noise(1, 1600), torch.tensor([1600]))[0]
    state["preprocessor.featurizer.fb"] = state["preprocessor.featurizer.fb"] * 2
    model.load_state_dict(state, assign=True)
    after = model.preprocessor(noise(1, 1600), torch.tensor([1600]))[0]
    torch.testing.assert_close(after, before + torch.log(torch.tensor(2.0)), rtol=0, atol=0.05)


def test_built_on_the_meta_device_it_still_has_its_banks() -> None:
    with torch.device("meta"):
        model = LogMel(LogMelConfig()).eval()
    features, _ = model(noise(1, 1600), torch.tensor([1600]))
    torch.testing.assert_close(features, front_end()(noise(1, 1600), torch.tensor([1600]))[0])


def test_features_stay_float32_in_a_half_precision_model() -> None:
    signal, lengths = noise(1, 1600), torch.tensor([1600])
    expected = front_end()(signal, lengths)[0]
    model = front_end().to(torch.bfloat16)
    torch.testing.assert_close(model(signal, lengths)[0], expected, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(signal, lengths)[0], expected, rtol=0, atol=0)


def test_dither_is_added_only_in_training() -> None:
    model, silence, lengths = (
        front_end(normalize="none", dither=1e-2),
        torch.zeros(1, 1600),
        torch.tensor([1600]),
    )
    quiet = model(silence, lengths)[0]
    assert (quiet == quiet[0, 0, 0]).all()
    dithered = model.train()(silence, lengths)[0]
    assert (dithered - quiet).abs().mean() > 1.0


def test_one_frame_normalises_to_zero_and_no_frame_gives_none() -> None:
    features, frames = front_end()(noise(2, 300), torch.tensor([300, 0]))
    assert features.shape == (2, 1, 80)
    assert frames.tolist() == [1, 0]
    assert (features == 0).all()
    features, frames = front_end()(noise(1, 0), torch.tensor([0]))
    assert features.shape == (1, 0, 80)


@pytest.mark.parametrize("hz", [200.0, 1000.0, 3000.0, 7000.0])
def test_a_sine_lands_in_its_mel_band(hz: float) -> None:
    from aronnax.collections.common.audio.mel import mel_centres

    signal = 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000).unsqueeze(0)
    features, _ = front_end(normalize="none", preemphasis=0.0)(signal, torch.tensor([16000]))
    peak = int(features[0, 10:-10].mean(0).argmax())
    corners = mel_centres(80, 0.0, 8000.0)
    assert corners[peak] <= hz <= corners[peak + 2]


def test_long_recordings_in_blocks_equal_one_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    from aronnax.collections.common.audio import features as module

    signal, lengths = noise(2, 50000), torch.tensor([50000, 31111])
    whole = front_end()(signal, lengths)[0]
    monkeypatch.setitem(module._BLOCK_FRAMES, "cpu", 14)
    torch.testing.assert_close(front_end()(signal, lengths)[0], whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_fft": 256}, "n_fft"),
        ({"window": "kaiser"}, "window"),
        ({"normalize": "NA"}, "normalize"),
        ({"log_zero_guard": "max"}, "log_zero_guard"),
        ({"window_stride": 1e-6}, "window_stride"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(LogMelConfig(), **settings)
