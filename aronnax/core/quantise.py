"""Eight- and sixteen-bit weights for inference on a CPU. `M` rows of an input, `N` outputs, `K` inputs.

Weights get one scale per output channel, activations one per row (so that a row never depends on its batch),
both symmetric; sums are exact in 32 bits. Products are those of `tiles.py`, or oneDNN's where these cannot be had.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from aronnax.core import tiles
from aronnax.core.errors import OptionError

Anything = TypeVar("Anything", bound=nn.Module)

_ONEDNN = hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()
# Without VNNI two products are first added in 16 bits, which full-range weights could overflow.
_WEIGHT_RANGE = 127 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 63

_LARGEST = tiles.LARGEST[2]


class Rounded(NamedTuple):
    """An input [..., K] in whole numbers, the largest magnitude of each row [M, 1], and what the input was."""

    whole: tuple[Tensor, ...]
    peak: Tensor
    shape: torch.Size
    dtype: torch.dtype


class WholeNumberLinear(nn.Module):
    """A linear layer [N, K] of whole numbers; takes and gives floats, holds no gradients.

    Layers of one kind round an input alike, so those that read the same one may share it: see `together`.
    """

    bias: Tensor | None
    in_features: int
    out_features: int

    @abstractmethod
    def _round(self, rows: Tensor, spent: bool, least: float) -> tuple[tuple[Tensor, ...], Tensor]:
        """Rows [M, K] in whole numbers and their largest magnitudes [M, 1]; for `spent` and `least` see `last`."""

    @abstractmethod
    def _multiply(self, whole: tuple[Tensor, ...], peak: Tensor, then: str) -> Tensor:
        """What `_round` made -> float [M, N]; `then` is applied to it."""

    def forward(self, x: Tensor, then: str = "none") -> Tensor:
        """[..., K] -> [..., N]; `then` is applied to the product, see `activated` in common/nn/linear.py."""
        return self.product(self.rounded(x), then)

    def rounded(self, x: Tensor, *, spent: bool = False, least: float = -math.inf) -> Rounded:
        """What `product` takes, of x [..., K]; for `spent` and `least` see `last`."""
        rows = x.detach().flatten(0, -2).float()
        whole, peak = self._round(rows, spent, least) if len(rows) else ((), rows.new_ones(0, 1))
        return Rounded(whole, peak, x.shape[:-1], x.dtype)

    def product(self, given: Rounded, then: str = "none") -> Tensor:
        """What the layer makes of an input that was rounded: [..., N]."""
        if not len(given.peak):
            return given.peak.new_zeros(*given.shape, self.out_features, dtype=given.dtype)
        out = self._multiply(given.whole, given.peak, then)
        return out.to(given.dtype).unflatten(0, given.shape)


def together(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """Each of `layers` on the same input [..., K]; layers of whole numbers round it once."""
    first = layers[0]
    if isinstance(first, WholeNumberLinear) and all(type(layer) is type(first) for layer in layers):
        given = first.rounded(x)
        return [cast(WholeNumberLinear, layer).product(given) for layer in layers]
    return [layer(x) for layer in layers]


def last(layer: nn.Module, x: Tensor, least: float = -math.inf) -> Tensor:
    """What `layer` makes of x [..., K], which nobody reads afterwards: whole numbers are made of it where it lies.

    No number of x is below `least`, which spares a layer of whole numbers from looking for it.
    """
    if isinstance(layer, WholeNumberLinear):
        return layer.product(layer.rounded(x, spent=True, least=least))
    return layer(x)


class TiledLinear(WholeNumberLinear):
    """A linear layer whose products are those of `tiles.py`, for processors with AMX."""

    planes: ClassVar[int]
    tiles: Tensor
    unit: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed = tiles.Weight.of(weight, self.planes)
        self.register_buffer("tiles", packed.tiles, persistent=False)
        self.register_buffer("unit", packed.unit, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> TiledLinear:
        """Moves it; a cast leaves what is no weight but a scale as it is."""
        unit, bias = self.unit, self.bias
        super()._apply(fn, recurse)
        self.unit = unit.to(self.unit.device)
        self.bias = None if bias is None else bias.to(self.unit.device)
        return self

    def _round(self, rows: Tensor, spent: bool, least: float) -> tuple[tuple[Tensor, ...], Tensor]:
        if rows.shape[1] != self.in_features:
            raise ValueError(f"the layer takes {self.in_features} numbers a row, not {rows.shape[1]}")
        whole, peak = tiles.rounded(rows, self.planes)
        return (whole,), peak

    def _multiply(self, whole: tuple[Tensor, ...], peak: Tensor, then: str) -> Tensor:
        (given,) = whole
        weight = tiles.Weight(self.tiles, self.unit)
        return tiles.multiply(given, peak, weight, self.bias, self.in_features, then)


class TiledEightBitLinear(TiledLinear):
    """Int8 weights and inputs."""

    planes = 1


class TiledSixteenBitLinear(TiledLinear):
    """Weights and inputs of 16 bits: three of the four products of their bytes, see `SixteenBitLinear`."""

    planes = 2


class OneDNNLinear(WholeNumberLinear):
    """A linear layer whose products are oneDNN's."""

    @abstractmethod
    def _whole(self, rows: Tensor, peak: Tensor, spent: bool) -> tuple[Tensor, ...]:
        """Rows [M, K] in whole numbers, the largest of which stands for `peak` [M, 1]; written over where `spent`."""

    @abstractmethod
    def _sums(self, whole: tuple[Tensor, ...]) -> Tensor:
        """What `_whole` made -> float [M, N], scaled by channel."""

    def _round(self, rows: Tensor, spent: bool, least: float) -> tuple[tuple[Tensor, ...], Tensor]:
        peak = _peak(rows, least)
        return self._whole(rows, peak, spent), peak

    def _multiply(self, whole: tuple[Tensor, ...], peak: Tensor, then: str) -> Tensor:
        out = self._sums(whole)
        # In place: a new tensor would have to be fetched into the cache.
        out = out.mul_(peak) if self.bias is None else torch.addcmul(self.bias, out, peak, out=out)
        if then == "none":
            return out
        return out.relu_() if then == "relu" else torch.ops.aten.silu_(out)


class QuantisedLinear(OneDNNLinear):
    """A linear layer with int8 weights and inputs."""

    scale: Tensor
    middle: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-30) / _WEIGHT_RANGE
        whole = (weight / scale[:, None]).round().clamp(-_WEIGHT_RANGE, _WEIGHT_RANGE).to(torch.int8)
        self.register_buffer("scale", scale / 127.0, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)
        # One for each column: a single number would be added at half the speed.
        self.register_buffer("middle", torch.full((self.in_features,), 128.5), persistent=False)
        self.register_buffer("zeros", torch.zeros(self.out_features, dtype=torch.int32), persistent=False)
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None) if _ONEDNN else whole.t()

    def _whole(self, rows: Tensor, peak: Tensor, spent: bool) -> tuple[Tensor, ...]:
        """Whole numbers around 128 [M, K], which oneDNN is fast with; the cast cuts off what the half has rounded."""
        return (_scaled(rows, 127.0, peak, self.middle, spent).to(torch.uint8),)

    def _sums(self, whole: tuple[Tensor, ...]) -> Tensor:
        if not _ONEDNN:
            signed = whole[0].bitwise_xor(128).view(torch.int8)
            return torch._int_mm(signed, self.packed).float().mul_(self.scale)
        return torch.ops.onednn.qlinear_pointwise(
            *whole, 1.0, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


class SixteenBitLinear(OneDNNLinear):
    """A linear layer whose weights and inputs are 16-bit whole numbers.

    Each number is 256 times a high byte and a low byte, both signed. Three of the four products of bytes are summed
    exactly; that of the low bytes is left out: it is worth about as much as what rounding to 16 bits costs.
    """

    coarse: Tensor
    fine: Tensor
    middle: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        check_sixteen_bits()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().double()
        scale = weight.abs().amax(1).clamp(min=1e-30) / _LARGEST
        whole = (weight / scale[:, None]).round().to(torch.int32) + 128
        high, low = (whole >> 8).to(torch.int8), ((whole & 255) - 128).to(torch.int8)
        unit = scale / _LARGEST
        self.register_buffer("coarse", (65536.0 * unit).float(), persistent=False)
        self.register_buffer("fine", (256.0 * unit).float(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)
        # Around 32768 + 128, so that both bytes are without a sign; the cast cuts off what the half has rounded.
        self.register_buffer("middle", torch.full((self.in_features,), 32768 + 128.5), persistent=False)
        self.register_buffer("zeros", torch.zeros(self.out_features, dtype=torch.int32), persistent=False)
        self.high = torch.ops.onednn.qlinear_prepack(high, None)
        # The bytes of an input lie in memory as low, high: its low ones meet the high ones of the weights.
        self.crossed = torch.ops.onednn.qlinear_prepack(torch.stack([high, low], 2).flatten(1), None)

    def _whole(self, rows: Tensor, peak: Tensor, spent: bool) -> tuple[Tensor, ...]:
        """High bytes [M, K] and all bytes [M, 2 K], around 128."""
        floats = _scaled(rows, _LARGEST, peak, self.middle, spent).contiguous()
        whole = floats.to(torch.uint16).view(torch.int16)
        # The floats are of no use any more; their memory, which is in the cache, takes what is left to be written.
        count, room = whole.numel(), floats.flatten()
        shifted = room.view(torch.int16)[:count].view_as(whole)
        high = room.view(torch.uint8)[2 * count : 3 * count].view_as(whole)
        high.copy_(torch.bitwise_right_shift(whole, 8, out=shifted))
        return high, whole.view(torch.uint8)

    def _sums(self, whole: tuple[Tensor, ...]) -> Tensor:
        high, both = whole
        product = torch.ops.onednn.qlinear_pointwise
        as_floats = (1.0, 0, torch.float32)
        out = product(high, 1.0, 128, self.high, self.coarse, self.zeros, None, *as_floats, "none", [], "")
        given = (both, 1.0, 128, self.crossed, self.fine, self.zeros, out, None)
        return product.binary(*given, *as_floats, 1.0, 0, "sum", 1.0, "none", [], "")


def check_sixteen_bits() -> None:
    """OptionError on a processor that would multiply 16-bit numbers no faster than floats."""
    if tiles.library() is not None:
        return
    if not _ONEDNN or not getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        raise OptionError(
            "weights='int16' needs a processor with AMX: this one multiplies floats as fast;"
            " leave it out, or take weights='int8'"
        )


def _peak(rows: Tensor, least: float) -> Tensor:
    """The largest magnitude of each row [M, K] -> [M, 1], or more where that is below -`least`.

    Two passes are far faster than a norm.
    """
    highest = rows.amax(1, keepdim=True)
    if least > -math.inf:
        return highest.clamp_(min=max(-least, 1e-30))
    return torch.maximum(highest, -rows.amin(1, keepdim=True)).clamp_(min=1e-30)


def _scaled(rows: Tensor, largest: float, peak: Tensor, middle: Tensor, spent: bool) -> Tensor:
    """Rows [M, K] times `largest` / `peak` [M, 1] plus `middle` [K].

    In place if `spent`, as new memory is not in the cache.
    """
    return torch.addcmul(middle, rows, peak.reciprocal(), value=largest, out=rows if spent else None)


KINDS: Mapping[str, tuple[type[TiledLinear], type[QuantisedLinear | SixteenBitLinear]]] = {
    "int8": (TiledEightBitLinear, QuantisedLinear),
    "int16": (TiledSixteenBitLinear, SixteenBitLinear),
}
"""The layer for each kind of weights, and the one where it cannot be had."""


def check_weights(weights: str) -> None:
    """OptionError for a kind of weights that there is not."""
    if weights not in KINDS:
        known = " or ".join(map(repr, KINDS))
        raise OptionError(f"weights={weights!r} is not known; it must be {known}, or left out for floats")


def quantise(model: Anything, weights: str = "int8") -> Anything:
    """Replaces, in place, the weights of every layer marked `quantisable` by int8 or int16; returns the model.

    The model must be on the CPU and is then for inference only: it cannot be trained or saved.

    Raises OptionError where the model is on another device or has no such layer, or the processor is not for it.
    """
    check_weights(weights)
    if weights == "int16":
        check_sixteen_bits()
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if getattr(child, "quantisable", False)
    ]
    if not found:
        raise OptionError(
            f"weights={weights!r}: this model has no layer that can be quantised, or already is"
        )
    tiled, otherwise = KINDS[weights]
    kind = otherwise if tiles.library() is None else tiled
    for parent, name, layer in found:
        weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
        if weight.device.type != "cpu":
            raise OptionError(
                f"weights={weights!r} runs on the CPU only, but the model is on {weight.device}: "
                "load it with device='cpu'"
            )
        setattr(parent, name, kind(weight.flatten(1), bias))
    return model.eval()
