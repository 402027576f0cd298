"""The ears: adapters, lengths, and rows that do not depend on each other."""

from __future__ import annotations

import pytest
import torch

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.speechlm.perception import AdapterConfig, Perception, PerceptionConfig
from aronnax.core.errors import ConfigError

SMALL = FastConformerConfig(
    n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=8, subsampling_factor=4, conv_kernel_size=3
)
ADAPTERS = {
    "identity": (AdapterConfig(), 1),
    "stack": (AdapterConfig("stack", stacking=3), 3),
    "mlp": (AdapterConfig("mlp", stacking=2, hidden=12), 2),
    "conformer, every frame": (
        AdapterConfig(
            "conformer", conformer=FastConformerConfig(n_layers=1, d_model=8, n_heads=2, subsampling_factor=1)
        ),
        1,
    ),
    "conformer, subsampling": (
        AdapterConfig(
            "conformer",
            conformer=FastConformerConfig(
                n_layers=1, d_model=8, n_heads=2, subsampling_factor=2, subsampling_conv_channels=4
            ),
        ),
        2,
    ),
}


def _perception(adapter: AdapterConfig) -> Perception:
    torch.manual_seed(0)
    return Perception(PerceptionConfig(encoder=SMALL, adapter=adapter), 24).eval()


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    perception = _perception(ADAPTERS[name][0])
    signal = torch.randn(3, 9000) * 0.1
    lengths = torch.tensor([9000, 5000, 7300])
    frames, found = perception(signal, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, alone_length = perception(signal[row : row + 1, :length], lengths[row : row + 1])
        assert int(found[row]) == int(alone_length[0])
        torch.testing.assert_close(frames[row, : found[row]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("samples", [160, 1599, 1600, 5000, 9000])
def test_the_number_of_frames_is_known_without_hearing(name: str, samples: int) -> None:
    perception = _perception(ADAPTERS[name][0])
    frames, lengths = perception(torch.randn(1, samples), torch.tensor([samples]))
    assert perception.frames(samples) == int(lengths[0]) == frames.shape[1]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_frame_lasts_what_encoder_and_adapter_make_of_it(name: str) -> None:
    adapter, factor = ADAPTERS[name]
    perception = _perception(adapter)
    assert perception.samples_per_frame == 160 * 4 * factor
    assert perception.seconds_per_frame == pytest.approx(0.04 * factor)


def test_bands_are_hidden_in_training_only() -> None:
    masked = PerceptionConfig(encoder=SMALL, spec_augment=SpecAugmentConfig(time_masks=3, time_width=0.5))
    perception = Perception(masked, 24).eval()
    signal, lengths = torch.randn(1, 9000), torch.tensor([9000])
    assert torch.equal(perception(signal, lengths)[0], perception(signal, lengths)[0])
    torch.manual_seed(1)
    first = perception.train()(signal, lengths)[0]
    assert not torch.allclose(first, perception(signal, lengths)[0])


def test_bands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="feat_in is 64, but the preprocessor makes 80"):
        PerceptionConfig(encoder=FastConformerConfig(feat_in=64))


def test_stacking_belongs_to_its_kinds() -> None:
    with pytest.raises(ConfigError, match=r"conformer\.subsampling_factor"):
        AdapterConfig("conformer", stacking=2)
