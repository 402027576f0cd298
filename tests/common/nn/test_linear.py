"""Products of a few rows with a copy of the weight that is made once."""

import pytest
import torch
from torch.nn import functional as F

from aronnax.collections.common.nn.linear import StepLinear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return StepLinear(300, 400)


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 32, 33, 100])
def test_any_number_of_rows_gives_the_product(layer, rows):
    x = torch.randn(rows, 1, 300)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_a_changed_weight_is_used(layer):
    x = torch.randn(4, 300)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2.0)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_gradients_flow(layer):
    x = torch.randn(4, 300, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, -1), atol=1e-4, rtol=1e-4)
    assert layer.weight.grad is not None


def test_the_copy_is_not_part_of_the_state(layer):
    with torch.no_grad():
        layer(torch.randn(4, 300))
    assert set(layer.state_dict()) == {"weight", "bias"}
