"""Products of a few rows with a copy of the weight that is made once; products with what follows them."""

import pytest
import torch
from torch.nn import functional as F

from aronnax.collections.common.nn.linear import Linear, StepLinear, activated, plus


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


@pytest.mark.parametrize(("then", "function"), [("swish", F.silu), ("relu", F.relu), ("none", lambda x: x)])
@pytest.mark.parametrize("kind", [Linear, StepLinear])
def test_what_follows_a_product_may_be_part_of_it(kind, then, function):
    torch.manual_seed(0)
    layer, x = kind(300, 400), 3.0 * torch.randn(2, 5, 300)
    x[0, 0], x[0, 1] = 1000.0 * x[0, 0], 0.0
    with torch.inference_mode():
        wanted = function(F.linear(x.double(), layer.weight.double(), layer.bias.double()))
        for found in (activated(layer, x, then), layer(x, then)):
            # The row of large numbers, where an exponential would overflow, carries their rounding.
            torch.testing.assert_close(found[0, 0].double(), wanted[0, 0], atol=2e-3, rtol=1e-6)
            torch.testing.assert_close(found[0, 1:].double(), wanted[0, 1:], atol=1e-5, rtol=1e-6)
            torch.testing.assert_close(found[1].double(), wanted[1], atol=1e-5, rtol=1e-6)


def test_gradients_flow_through_what_follows_a_product():
    torch.manual_seed(0)
    layer, x = Linear(30, 40), torch.randn(4, 30, requires_grad=True)
    activated(layer, x, "swish").square().sum().backward()
    found = [x.grad.clone(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    inputs = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(F.silu(F.linear(*inputs)).square().sum(), inputs)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_hook_on_a_layer_sees_its_call():
    layer, seen = Linear(8, 8), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        out = activated(layer, torch.randn(2, 8), "relu")
    assert seen[0] is out


def test_a_sum_takes_the_memory_of_what_is_added_only_without_gradients_and_in_its_type():
    x, y = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    expected, given = x + 0.5 * y, y.clone()
    assert torch.equal(plus(x, y, 0.5), expected)
    assert torch.equal(y, given)
    with torch.no_grad():
        half = y.bfloat16()
        assert plus(x, half, 0.5).dtype == torch.float32
        assert torch.equal(half, given.bfloat16())
        found = plus(x, y, 0.5)
    assert torch.equal(found, expected)
    assert found.data_ptr() == y.data_ptr()
    y = given.requires_grad_()
    plus(x, y, 0.5).sum().backward()
    assert torch.equal(y.grad, torch.full_like(y, 0.5))
