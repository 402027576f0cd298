"""Int8 and int16 weights: accuracy, independence of rows, threads."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from aronnax.collections.asr.encoder import FastConformer, FastConformerConfig
from aronnax.collections.common.nn.linear import LEAST, Activation, Linear, PointwiseConv, activated
from aronnax.core import tiles
from aronnax.core.errors import OptionError
from aronnax.core.quantise import (
    QuantisedLinear,
    SixteenBitLinear,
    TiledEightBitLinear,
    TiledLinear,
    TiledSixteenBitLinear,
    WholeNumberLinear,
    check_sixteen_bits,
    last,
    quantise,
    together,
)

try:
    check_sixteen_bits()
except OptionError:
    AMX = False
else:
    AMX = True
needs_amx = pytest.mark.skipif(not AMX, reason="16-bit products need a processor with AMX")
needs_tiles = pytest.mark.skipif(tiles.library() is None, reason="needs tiles.c compiled and AMX")
KINDS = [
    QuantisedLinear,
    pytest.param(SixteenBitLinear, marks=needs_amx),
    pytest.param(TiledEightBitLinear, marks=needs_tiles),
    pytest.param(TiledSixteenBitLinear, marks=needs_tiles),
]


@pytest.fixture(scope="module")
def encoders() -> tuple[FastConformer, FastConformer]:
    torch.manual_seed(0)
    config = FastConformerConfig(feat_in=16, n_layers=2, d_model=64, n_heads=4, subsampling_conv_channels=8)
    encoder = FastConformer(config).eval()
    return encoder, quantise(copy.deepcopy(encoder))


def test_a_quantised_layer_is_within_one_percent() -> None:
    torch.manual_seed(0)
    for layer in (Linear(96, 40), PointwiseConv(96, 40, bias=False)):
        x = torch.randn(3, 7, 96)
        x[0] *= 1000.0
        x[1, 2] = 0.0
        with torch.inference_mode():
            expected = layer(x)
            got = quantise(nn.Sequential(copy.deepcopy(layer)))(x)
        for row in range(3):
            assert (got[row] - expected[row]).norm() / expected[row].norm() < 0.012


def test_sums_are_exact_in_whole_numbers() -> None:
    whole = torch.randint(-127, 128, (30, 256)).float()
    weight = torch.randint(-127, 128, (20, 256)).float()
    whole[:, 0] = weight[:, 0] = 127.0
    out = QuantisedLinear(weight, None)(whole)
    torch.testing.assert_close(out, whole @ weight.t(), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("then", ["none", "relu", "swish"])
def test_a_spent_input_gives_the_same_numbers(kind: type[WholeNumberLinear], then: Activation) -> None:
    torch.manual_seed(0)
    layer = kind(torch.randn(24, 80), torch.randn(24))
    x = activated(nn.Identity(), 3 * torch.randn(2, 9, 80), then)
    given = x.clone()
    expected = layer(x)
    assert torch.equal(x, given)
    assert torch.equal(last(layer, x, LEAST[then]), expected)
    assert torch.equal(x, given) == issubclass(kind, TiledLinear)


@pytest.mark.parametrize("then", ["relu", "swish"])
def test_nothing_is_below_what_an_activation_is_said_to_give_at_least(then: Activation) -> None:
    lowest = activated(nn.Identity(), torch.linspace(-20, 5, 100_001, dtype=torch.float64), then).min()
    assert LEAST[then] <= lowest <= LEAST[then] + 1e-5


def test_an_encoder_leaves_what_it_is_given(encoders: tuple[FastConformer, FastConformer]) -> None:
    for encoder in encoders:
        frames, lengths = torch.randn(2, 25, 64), torch.tensor([25, 11])
        given = frames.clone()
        with torch.inference_mode():
            first = encoder.encode_frames(frames, lengths).states.clone()
            again = encoder.encode_frames(frames, lengths).states
        assert torch.equal(frames, given)
        assert torch.equal(first, again)


def test_a_quantised_encoder_stays_close_and_keeps_no_float_weights(
    encoders: tuple[FastConformer, FastConformer],
) -> None:
    encoder, quantised = encoders
    features, lengths = torch.randn(2, 160, 16), torch.tensor([160, 70])
    with torch.inference_mode():
        expected, got = encoder(features, lengths).states, quantised(features, lengths).states
    assert (got - expected).norm() / expected.norm() < 0.03
    names = [name for name, _ in quantised.named_parameters() if "linear1" in name or "linear_q" in name]
    assert not names


def test_a_row_does_not_depend_on_its_batch(encoders: tuple[FastConformer, FastConformer]) -> None:
    features = torch.randn(3, 160, 16)
    features[0] *= 50.0
    lengths = torch.tensor([160, 70, 8])
    with torch.inference_mode():
        together = encoders[1](features, lengths).states
        for row in range(3):
            length = int(lengths[row])
            alone = encoders[1](features[row : row + 1, :length], lengths[row : row + 1]).states[0]
            # A sum that differs in the last bit may round to another step of the eight-bit scale.
            assert (together[row, : alone.shape[0]] - alone).abs().mean() < 1e-3


def test_threads_get_the_serial_results(encoders: tuple[FastConformer, FastConformer]) -> None:
    batches = [(torch.randn(1, 50 + 10 * i, 16), torch.tensor([50 + 10 * i])) for i in range(12)]

    def run(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return encoders[1](*batch).states

    serial = [run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(serial, pool.map(run, batches)):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_no_rows_give_no_rows() -> None:
    assert QuantisedLinear(torch.randn(4, 8), None)(torch.zeros(2, 0, 8)).shape == (2, 0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_read_the_same_input_round_it_once_and_give_the_same_numbers(
    kind: type[WholeNumberLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = [kind(torch.randn(rows, 24), bias) for rows, bias in ((8, None), (12, torch.randn(12)))]
    x, empty = torch.randn(2, 5, 24), torch.zeros(2, 0, 24)
    alone, kept = [layer(x) for layer in layers], x.clone()
    rounded, calls = kind.rounded, []
    monkeypatch.setattr(kind, "rounded", lambda layer, x: calls.append(layer) or rounded(layer, x))
    for one, other in zip(alone, together(x, layers)):
        assert torch.equal(one, other)
    assert len(calls) == 1
    assert torch.equal(x, kept)
    assert [found.shape for found in together(empty, layers)] == [(2, 0, 8), (2, 0, 12)]
    floats = nn.Linear(24, 8)
    assert torch.equal(together(x, [layers[0], floats])[1], floats(x))


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(OptionError, match="int8"):
        quantise(nn.Sequential(nn.ReLU()))


@needs_amx
def test_a_sixteen_bit_layer_is_within_a_ten_thousandth() -> None:
    torch.manual_seed(0)
    for layer in (Linear(96, 40), PointwiseConv(96, 40, bias=False)):
        x = torch.randn(3, 7, 96)
        x[0] *= 1000.0
        x[1, 2] = 0.0
        with torch.inference_mode():
            expected = layer(x)
            got = quantise(nn.Sequential(copy.deepcopy(layer)), "int16")(x)
        for row in range(3):
            assert (got[row] - expected[row]).norm() / expected[row].norm() < 1e-4


@needs_amx
def test_three_products_of_bytes_are_summed_exactly() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randint(-32639, 32640, (rows, 256)) for rows in (30, 20))
    x[:, 0] = weight[:, 0] = -32639
    (high_x, low_x), (high_w, low_w) = (
        ((whole + 128) // 256, whole - (whole + 128) // 256 * 256) for whole in (x, weight)
    )
    expected = 65536 * high_x @ high_w.t() + 256 * (high_x @ low_w.t() + low_x @ high_w.t())
    out = SixteenBitLinear(weight.float(), None)(x.float())
    torch.testing.assert_close(out.double(), expected.double(), rtol=1e-6, atol=1e4)


@needs_amx
def test_a_sixteen_bit_encoder_gives_the_states_of_the_float_one_whatever_the_batch(
    encoders: tuple[FastConformer, FastConformer],
) -> None:
    sixteen = quantise(copy.deepcopy(encoders[0]), "int16")
    features, lengths = torch.randn(2, 160, 16), torch.tensor([160, 70])
    with torch.inference_mode():
        expected, got = encoders[0](features, lengths).states, sixteen(features, lengths).states
        alone = sixteen(features[1:, :70], lengths[1:]).states[0]
    assert (got - expected).norm() / expected.norm() < 2e-4
    torch.testing.assert_close(got[1, : len(alone)], alone, atol=1e-4, rtol=0)
    assert SixteenBitLinear(torch.randn(4, 8), None)(torch.zeros(2, 0, 8)).shape == (2, 0, 4)


def test_sixteen_bits_are_refused_where_they_would_not_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(tiles, "library", lambda: None)
    with pytest.raises(OptionError, match="AMX"):
        quantise(nn.Sequential(Linear(8, 8)), "int16")
    with pytest.raises(OptionError, match="'int4' is not known"):
        quantise(nn.Sequential(Linear(8, 8)), "int4")
