"""Products of whole numbers in C and attention of them beside exact ones: sizes, activations, dtypes, threads."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.encoder import FastConformer, FastConformerConfig
from aronnax.collections.common.nn.linear import Linear
from aronnax.collections.diarization.sortformer.config import TransformerConfig
from aronnax.collections.diarization.sortformer.transformer import TransformerEncoder
from aronnax.core import quantise, tiles
from aronnax.core.errors import OptionError

needs_tiles = pytest.mark.skipif(
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
@needs_tiles
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
@needs_tiles
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


@needs_tiles
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
@needs_tiles
def test_what_is_not_a_number_stays_so_in_its_row_alone(bad: float, then: str) -> None:
    torch.manual_seed(0)
    layer, x = quantise.TiledSixteenBitLinear(torch.randn(20, 40), torch.randn(20)), torch.randn(3, 40)
    expected = layer(x, then)
    x[1, 7] = bad
    found = layer(x, then)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not found[1].isfinite().any()


@needs_tiles
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
@needs_tiles
def test_without_the_library_onednn_gives_the_same_numbers(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def attention(
    given: list[Tensor], lengths: Tensor, scale: float, near: Tensor, far: Tensor, table: Tensor, centre: int
) -> Tensor:
    """Attention with relative positions in float64: query, key, value [B, T, H, K] -> [B, T, H K]."""
    query, key, value = (part.double().transpose(1, 2) for part in given)
    frames = torch.arange(query.shape[2])
    bands = (query + far[:, None]) @ table.double()
    index = (centre - frames[:, None] + frames).expand(*bands.shape[:3], -1)
    scores = scale * (query + near[:, None]) @ key.transpose(-1, -2) + bands.gather(-1, index)
    scores = scores.masked_fill((frames >= lengths[:, None])[:, None, None], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(
    ("batch", "frames", "heads", "width"),
    [(1, 1, 1, 1), (2, 5, 2, 24), (3, 17, 1, 64), (2, 33, 3, 8), (1, 100, 2, 70), (2, 318, 4, 64)],
)
@needs_tiles
def test_attention_is_that_of_floats(
    batch: int, frames: int, heads: int, width: int, positions: bool
) -> None:
    torch.manual_seed(frames)
    given = [torch.randn(batch, frames, heads, width) for _ in range(3)]
    lengths = torch.randint(1, frames + 1, (batch,))
    centre, scale = frames + 6, width**-0.5
    near, far = torch.randn(heads, width), torch.randn(heads, width)
    table = scale * torch.randn(heads, width, 2 * centre + 1)
    if not positions:
        near, far, table = near.zero_(), far.zero_(), table.zero_()
    expected = attention(given, lengths, scale, near, far, table, centre)
    packed = tiles.Positions(near, far, *tiles.Positions.packed(table), centre) if positions else None
    for row, length in enumerate(lengths.tolist()):
        # What lies behind a row's end is not looked at, whatever it is.
        given[1][row, length:], given[2][row, length:] = float("nan"), float("inf")
    flat = [part.flatten(2) for part in given]
    found = tiles.attend(*flat, lengths, heads, scale, packed)
    assert (found - expected).norm() / expected.norm() < 3e-4
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(tiles.attend(*flat, lengths, heads, scale, packed), found)
    finally:
        torch.set_num_threads(before)
    alone = [part[-1:, : lengths[-1]] for part in flat]
    again = tiles.attend(*alone, lengths[-1:], heads, scale, packed)
    assert torch.equal(again[0], found[-1, : lengths[-1]])


@needs_tiles
def test_attention_of_an_empty_row_is_zero_and_what_is_not_a_number_stays_so() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 3, 20, 16)
    lengths = torch.tensor([20, 0, 12])
    expected = tiles.attend(query, key, value, lengths, 2, 0.3)
    assert torch.equal(expected[1], torch.zeros(20, 16))
    query[0, 4, 3] = float("nan")
    found = tiles.attend(query, key, value, lengths, 2, 0.3)
    assert found[0, 4, :8].isnan().all()
    found[0, 4, :8] = expected[0, 4, :8]
    assert torch.equal(found, expected)
    value[2, 11, 9] = float("nan")
    assert tiles.attend(query, key, value, lengths, 2, 0.3)[2, :, 9].isnan().all()


@pytest.mark.parametrize("weights", ["int8", "int16"])
@needs_tiles
def test_layers_attend_with_tiles_as_without(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = FastConformerConfig(feat_in=16, n_layers=2, d_model=64, n_heads=4, subsampling_conv_channels=8)
    encoder = quantise.quantise(FastConformer(config).eval(), weights)
    frames, lengths = torch.randn(2, 150, 64), torch.tensor([150, 61])
    calls, attend = [], tiles.attend
    monkeypatch.setattr(tiles, "attend", lambda *given: calls.append(given) or attend(*given))
    with torch.inference_mode():
        found = encoder.encode_frames(frames, lengths).states
        assert len(calls) == 2
        monkeypatch.setattr("aronnax.collections.common.nn.attention.KEPT_REACHES", ())
        expected = encoder.encode_frames(frames, lengths).states
    assert len(calls) == 2
    assert (found - expected).norm() / expected.norm() < (2e-4 if weights == "int16" else 0.01)


@needs_tiles
def test_what_all_values_have_in_common_does_not_add_up_to_an_error() -> None:
    torch.manual_seed(0)
    frames = 512
    query, key = torch.ones(1, frames, 8), torch.zeros(1, frames, 8)
    # One key gets half of the attention, and all others together the other half, in equal parts.
    key[0, 3] = torch.tensor(float(frames - 1)).log() / 8
    value = 100.0 + torch.randn(1, frames, 8)
    lengths, none = torch.tensor([frames]), torch.zeros(1, 8)
    given = [part.unflatten(2, (1, 8)) for part in (query, key, value)]
    expected = attention(given, lengths, 1.0, none, none, torch.zeros(1, 8, 2 * frames), frames)
    found = tiles.attend(query, key, value, lengths, 1, 1.0)
    assert (found - expected).abs().max() < 2e-3


@needs_tiles
@pytest.mark.parametrize("right", [None, 3])
@pytest.mark.parametrize("frames", [40, 512, 513])
def test_the_transformer_of_sortformer_attends_as_in_floats(
    right: int | None, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    floats = TransformerEncoder(TransformerConfig(n_layers=2, width=24, inner=32, n_heads=2)).eval()
    sixteen = TransformerEncoder(TransformerConfig(n_layers=2, width=24, inner=32, n_heads=2)).eval()
    sixteen.load_state_dict(floats.state_dict())
    quantise.quantise(sixteen, "int16")
    x, lengths = torch.randn(2, frames, 24), torch.tensor([frames, 31])
    calls, attend = [], tiles.attend
    monkeypatch.setattr(tiles, "attend", lambda *given: calls.append(given) or attend(*given))
    with torch.inference_mode():
        expected, found = floats(x, lengths, right), sixteen(x, lengths, right)
    assert len(calls) == (2 if right is None and frames <= 512 else 0)
    for row, length in enumerate(lengths.tolist()):
        difference = (found - expected)[row, :length].norm() / expected[row, :length].norm()
        assert difference < 2e-4


@needs_tiles
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats_are_taken_and_given_back(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = (
        quantise.TiledSixteenBitLinear(torch.randn(20, 40), torch.randn(20)),
        torch.randn(2, 9, 40).to(dtype),
    )
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x), layer(x.float()).to(dtype))
    lengths = torch.tensor([9, 4])
    found = tiles.attend(x, x, x, lengths, 2, 0.3)
    assert found.dtype == dtype
    torch.testing.assert_close(found, tiles.attend(*[x.float()] * 3, lengths, 2, 0.3).to(dtype))


@needs_tiles
def test_autocast_leaves_attention_right() -> None:
    torch.manual_seed(0)
    config = FastConformerConfig(feat_in=16, n_layers=2, d_model=64, n_heads=4, subsampling_conv_channels=8)
    encoder = quantise.quantise(FastConformer(config).eval(), "int8")
    frames, lengths = torch.randn(1, 50, 64), torch.tensor([50])
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.encode_frames(frames, lengths).states.float()
        expected = encoder.encode_frames(frames, lengths).states
        assert (found - expected).norm() / expected.norm() < 0.03
        # What the first call kept was made in float32 all the same.
        layer = encoder.layers[0].self_attn
        kept = layer.projected.get((layer.linear_pos.weight,), pytest.fail, ("tiles", 127))
        fresh = tiles.Positions.packed(layer._table(layer.linear_pos.weight, 127))
    assert torch.equal(kept[0].tiles, fresh[0].tiles)


@needs_tiles
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_and_device_do_not_matter(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x, lengths = (
        quantise.TiledSixteenBitLinear(torch.randn(20, 40), None),
        torch.randn(1, 50, 40),
        torch.tensor([50]),
    )

    def both() -> tuple[Tensor, Tensor]:
        return layer(x), tiles.attend(x, x, x, lengths, 2, 0.3)

    expected = both()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = both()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


@needs_tiles
@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_cast_of_the_model_leaves_its_weights_right(cast: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    layer, x = quantise.TiledSixteenBitLinear(torch.randn(20, 40), torch.randn(20)), torch.randn(3, 40)
    expected = layer(x)
    assert torch.equal(cast(layer)(x), expected)


@needs_tiles
def test_what_cannot_be_multiplied_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = quantise.TiledSixteenBitLinear(torch.randn(20, 400), None)
    with pytest.raises(ValueError, match="takes 400 numbers a row, not 60"):
        layer(torch.randn(3, 60))
    with pytest.raises(OptionError, match="CPU only, but were given a tensor on meta"):
        layer(torch.randn(3, 400, device="meta"))
    with pytest.raises(OptionError, match="on meta"):
        quantise.TiledSixteenBitLinear(torch.randn(20, 40), None).to("meta")(torch.randn(3, 40))
    monkeypatch.setattr(tiles, "library", lambda: None)
    with pytest.raises(OptionError, match="load the model anew"):
        layer(torch.randn(3, 400))


@needs_tiles
def test_a_library_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiles.library()
    assert loaded is not None
    here = Path(tiles.__file__).parent
    for name in tiles.SOURCES:
        shutil.copy(here / name, tmp_path)
    library = shutil.copy(loaded._name, tmp_path)
    monkeypatch.setattr(tiles, "__file__", str(tmp_path / "tiles.py"))
    assert tiles.library.__wrapped__() is not None
    with (tmp_path / "tiles.h").open("a") as header:
        header.write("\n")
    with pytest.warns(UserWarning, match=r"was compiled from other sources.*pip install"):
        assert tiles.library.__wrapped__() is None
    # Not written over: it is loaded.
    Path(library).unlink()
    Path(library).write_bytes(b"not a library")
    assert tiles.library.__wrapped__() is None


def knows_amx() -> bool:
    """Whether the C compiler of this machine can compile the tiles."""
    if shutil.which("gcc") is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return False
    found = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=False)
    version = found.stdout.strip().split(".")[0]
    return version.isdigit() and int(version) >= 11


@pytest.mark.skipif(not knows_amx(), reason="no GCC 11 here")
def test_the_library_is_compiled_where_it_can_be() -> None:
    here = Path(tiles.__file__).parent
    found = list(here.glob("_tiles*.so"))
    assert found, (
        "compiling tiles.c failed when aronnax was installed: pip install -v --no-deps --editable . says why"
    )
    assert ctypes.CDLL(os.fspath(found[0])).aronnax_tiles_mark
