from __future__ import annotations

import pytest
import torch
from torch import nn

from aronnax.collections.common.optim import OptimConfig, cosine, noam, parameter_groups
from aronnax.core.errors import ConfigError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 2)


def test_noam_peaks_at_the_end_of_the_warmup_and_falls_with_the_root() -> None:
    factor = noam(100)
    assert factor(99) == 1.0
    assert max(factor(step) for step in range(1000)) == 1.0
    assert factor(399) == pytest.approx(0.5)
    assert factor(0) == pytest.approx(0.01)


def test_cosine_rises_linearly_and_ends_at_the_floor() -> None:
    factor = cosine(10, 110, floor=0.1)
    assert factor(4) == pytest.approx(0.5)
    assert factor(10) == pytest.approx(1.0)
    assert factor(60) == pytest.approx(0.55)
    assert factor(110) == factor(500) == pytest.approx(0.1)


def test_a_warmup_longer_than_the_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps=1, or raise trainer\.max_steps"):
        cosine(10, 10)
    cosine(1, 10)
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps=0,"):
        cosine(1000, 1)


def test_norms_and_biases_do_not_decay() -> None:
    model = Small()
    decaying = {name for group in parameter_groups(model) if group.decays for name in group.names}
    assert decaying == {"encoder.0.weight", "head.weight"}


def test_the_longest_prefix_decides_the_multiplier() -> None:
    groups = parameter_groups(Small(), {"encoder": 0.1, "encoder.1": 0.5})
    found = {name: group.multiplier for group in groups for name in group.names}
    assert found["encoder.0.weight"] == 0.1
    assert found["encoder.1.weight"] == 0.5
    assert found["head.bias"] == 1.0


def test_a_misspelt_prefix_names_the_nearest_part() -> None:
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        parameter_groups(Small(), {"encodr": 0.1})


def test_frozen_parameters_are_in_no_group_and_all_frozen_is_an_error() -> None:
    model = Small()
    model.encoder.requires_grad_(False)
    names = {name for group in parameter_groups(model) for name in group.names}
    assert names == {"head.weight", "head.bias"}
    model.head.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        parameter_groups(model)


def test_a_part_with_a_first_step_rests_and_then_warms_up() -> None:
    model = Small()
    config = OptimConfig(lr=1.0, schedule="constant", warmup_steps=2, min_lr=0.0, first_steps={"encoder": 3})
    optimizer, scheduler = config.build(model, total_steps=10)
    groups = parameter_groups(model, None, {"encoder": 3})
    rates = []
    for _ in range(6):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    encoder = next(i for i, group in enumerate(groups) if "encoder.0.weight" in group.names)
    head = next(i for i, group in enumerate(groups) if "head.weight" in group.names)
    assert [row[encoder] for row in rates] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    assert [row[head] for row in rates] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert isinstance(optimizer, torch.optim.AdamW)
