from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.training import _fresh_config, load_config

EXAMPLES = Path("examples/asr")
PUBLISHED_VOCABULARY = 5248


@pytest.mark.parametrize("name", ["1b", "1b_flash", "180m_flash", "flash", "small", "noise_stage"])
def test_the_recipes_are_valid(name: str) -> None:
    config = load_config(EXAMPLES / f"canary_{name}.yaml")
    assert config.output == f"runs/canary_{name}"


@pytest.mark.parametrize(
    ("name", "millions", "layers"),
    [
        ("1b", 1020, (24, 24)),
        ("1b_flash", 883.5, (32, 4)),
        ("180m_flash", 182.6, (17, 4)),
        ("flash", 182.6, (17, 4)),
    ],
)
def test_presets_have_the_published_sizes(name, millions, layers) -> None:
    config = _fresh_config(load_config(EXAMPLES / f"canary_{name}.yaml"), PUBLISHED_VOCABULARY)
    with torch.device("meta"):
        model = CanaryModel(config)
    assert (config.encoder.n_layers, config.decoder.n_layers) == layers
    # "1.02 B" is rounded; its parts, 609.3 and 408.5 million, are known to 0.1 %.
    assert model.num_parameters() / 1e6 == pytest.approx(1017.8 if millions == 1020 else millions, rel=1e-3)


def test_the_small_recipe_is_small_enough_for_two_cores() -> None:
    config = _fresh_config(load_config(EXAMPLES / "canary_small.yaml"), 100)
    with torch.device("meta"):
        assert CanaryModel(config).num_parameters() < 3e6
