"""Products of whole numbers in C beside exact ones: rounding, ragged sizes, activations, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.core import quantise, tiles

pytestmark = pytest.mark.skipif(
    tiles.library() is None, reason="tiles.c was not compiled, or the processor is without AMX"
)

SIZES = [(1, 1, 1), (3, 70, 5), (16, 64, 16), (17, 65, 33), (33, 200, 48), (70, 512, 100), (40, 2500, 130)]
ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "swish": F.silu}


def whole_numbers(rows: Tensor, largest: int) -> Tensor:
    """Rows as whole numbers in float64, the largest of each row `largest`."""
    rows = rows.double()
    return (rows * (largest / rows.abs().amax(1, keepdim=True).clamp(min=1e-30))).round()


def unpacked(packed: Tensor, planes: int, rows: int, inputs: int) -> Tensor:
    """The whole numbers [M, K] in an input's tiles [strips, K / 64, planes, 16, 64]."""
    flat = packed.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2).double()[:, :rows, :inputs]
    return flat[0] if planes == 1 else 256 * flat[0] + flat[1]


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_an_input_is_rounded_to_the_nearest_whole_numbers(
    planes: int, rows: int, inputs: int, outputs: int
) -> None:
    torch.manual_seed(rows)
    x = torch.randn(rows, inputs) * 10.0 ** torch.randint(-6, 6, (rows, 1))
    x[-1] = 0.0
    packed, peak = tiles.rounded(x, planes)
    assert torch.equal(peak, x.abs().amax(1, keepdim=True).clamp(min=1e-30))
    found, expected = unpacked(packed, planes, rows, inputs), whole_numbers(x, tiles.LARGEST[planes])
    # The scale is a float, so that a half may fall to either side.
    assert (found - expected).abs().max() <= 1
    assert ((found - expected) != 0).double().mean() < 0.003


@pytest.mark.parametrize("then", ["none", "relu", "swish"])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_of_whole_numbers_are_exact(
    planes: int, rows: int, inputs: int, outputs: int, then: str
) -> None:
    torch.manual_seed(inputs)
    largest = tiles.LARGEST[planes]
    x, weight = (torch.randint(-largest, largest + 1, (size, inputs)) for size in (rows, outputs))
    x[:, 0] = weight[:, 0] = -largest
    expected = x @ weight.t()
    if planes == 2:
        low = [given - (given + 128) // 256 * 256 for given in (x, weight)]
        expected -= low[0] @ low[1].t()
    size = float(expected.abs().max())
    bias = torch.randn(outputs, dtype=torch.float64)
    expected = ACTIVATIONS[then](4 * expected.double() / size + bias)
    packed, peak = tiles.rounded(x.float(), planes)
    given = tiles.Weight.of(weight.double() * (4 / size), planes)
    found = tiles.multiply(packed, peak, given, bias.float(), inputs, then)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=4e-6)


def test_activations_are_right_over_all_sizes() -> None:
    x = torch.cat([torch.linspace(-200, 200, 40_001), torch.tensor([0.0, -0.0, 1e-30, 3e38, -3e38])])[:, None]
    packed, peak = tiles.rounded(x, 2)
    one = tiles.Weight.of(torch.ones(1, 1), 2)
    found = {then: tiles.multiply(packed, peak, one, None, 1, then) for then in ACTIVATIONS}
    # The products of low bytes are left out.
    torch.testing.assert_close(found["none"], x, rtol=2e-5, atol=0)
    assert torch.equal(found["relu"], F.relu(found["none"]))
    expected = F.silu(found["none"].double())
    # The power is rounded once: 80 times 2**-24 where the result is smallest.
    torch.testing.assert_close(found["swish"].double(), expected, rtol=6e-6, atol=1e-30)


@pytest.mark.parametrize("then", ["none", "relu", "swish"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_stays_so_in_its_row_alone(bad: float, then: str) -> None:
    torch.manual_seed(0)
    layer, x = quantise.TiledSixteenBitLinear(torch.randn(20, 40), torch.randn(20)), torch.randn(3, 40)
    expected = layer(x, then)
    x[1, 7] = bad
    found = layer(x, then)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not found[1].isfinite().any()


def test_threads_and_other_users_of_the_tiles_change_nothing() -> None:
    torch.manual_seed(0)
    layers = [quantise.TiledSixteenBitLinear(torch.randn(150, 90), None) for _ in range(4)]
    inputs = [torch.randn(rows, 90) for rows in (1, 15, 64, 101)]
    halves, before = torch.randn(64, 64).bfloat16(), torch.get_num_threads()
    expected = [layer(x) for layer, x in zip(layers, inputs)]
    product = halves @ halves

    def again(index: int) -> bool:
        layer, x, wanted = layers[index % 4], inputs[index % 4], expected[index % 4]
        return torch.equal(layer(x), wanted) and torch.equal(halves @ halves, product)

    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(map(again, range(4)))
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(again, range(80)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weights", ["int8", "int16"])
def test_without_the_library_onednn_gives_the_same_numbers(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aronnax.collections.common.nn.linear import Linear

    torch.manual_seed(0)
    x = torch.randn(2, 30, 96)
    layer = Linear(96, 40)
    found = quantise.quantise(nn.Sequential(Linear(96, 40)), weights)[0]
    assert isinstance(found, quantise.TiledLinear)
    found = type(found)(layer.weight, layer.bias)(x)
    monkeypatch.setattr(tiles, "library", lambda: None)
    other = quantise.quantise(nn.Sequential(layer), weights)[0]
    assert isinstance(other, quantise.OneDNNLinear)
    # On processors without full-range bytes oneDNN's have seven bits.
    torch.testing.assert_close(found, other(x), rtol=0, atol=0.03 if weights == "int8" else 2e-4)
