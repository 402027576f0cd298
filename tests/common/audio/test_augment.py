from __future__ import annotations

import pytest
import torch

from aronnax.collections.common.audio.augment import SpecAugment, SpecAugmentConfig
from aronnax.core.errors import ConfigError


def masked(config: SpecAugmentConfig, lengths: list[int], bands: int = 80, seed: int = 0) -> torch.Tensor:
    """Return which places [B, T, F] of a batch of ones were hidden."""
    augment = SpecAugment(config).train()
    features = torch.ones(len(lengths), max(lengths), bands)
    generator = torch.Generator().manual_seed(seed)
    return augment(features, torch.tensor(lengths), generator) == 0


def test_nothing_is_hidden_in_evaluation_or_by_default() -> None:
    features, lengths = torch.ones(2, 50, 80), torch.tensor([50, 20])
    assert SpecAugment(SpecAugmentConfig(2, 5)).eval()(features, lengths) is features
    assert SpecAugment(SpecAugmentConfig()).train()(features, lengths) is features


def test_a_mask_of_bands_spans_all_frames_and_one_of_time_all_bands() -> None:
    hidden = masked(SpecAugmentConfig(freq_masks=2, time_masks=0), [60] * 50)
    assert (hidden.all(1) == hidden.any(1)).all()
    hidden = masked(SpecAugmentConfig(freq_masks=0, time_masks=3), [60] * 50)
    assert (hidden.all(2) == hidden.any(2)).all()


def test_widths_are_uniform_up_to_the_widest() -> None:
    widths = masked(SpecAugmentConfig(freq_masks=1, freq_width=4), [1] * 5000)[:, 0].sum(1)
    assert torch.bincount(widths, minlength=5).min() > 800
    assert widths.max() == 4
    widths = masked(SpecAugmentConfig(time_masks=1, time_width=0.05), [200, 40] * 1000)[:, :, 0].sum(1)
    assert widths[0::2].max() == 10
    assert widths[1::2].max() == 2
    assert masked(SpecAugmentConfig(time_masks=1, time_width=30), [200] * 500)[:, :, 0].sum(1).max() == 30


def test_every_place_can_be_hidden_and_only_a_rows_own_frames_are() -> None:
    hidden = masked(SpecAugmentConfig(freq_masks=0, time_masks=1, time_width=0.3), [40, 10] * 2000)[:, :, 0]
    assert hidden[0::2].any(0).all()
    assert hidden[1::2, :10].any(0).all()
    assert not hidden[1::2, 10:].any()


def test_masks_wider_than_the_features_fit() -> None:
    hidden = masked(
        SpecAugmentConfig(freq_masks=1, freq_width=200, time_masks=1, time_width=99), [3, 1], bands=8
    )
    assert hidden.shape == (2, 3, 8)


def test_the_seed_decides_and_rows_differ() -> None:
    config = SpecAugmentConfig(2, 5)
    assert torch.equal(masked(config, [100] * 4), masked(config, [100] * 4))
    assert not torch.equal(masked(config, [100] * 4), masked(config, [100] * 4, seed=1))
    hidden = masked(config, [100] * 4)
    assert not torch.equal(hidden[0], hidden[1])


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="time_width"):
        SpecAugmentConfig(time_width=-0.1)
