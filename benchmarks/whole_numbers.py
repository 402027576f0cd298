"""One linear layer and one layer's attention in fp32, by oneDNN's whole numbers and by our own tiles.

    python benchmarks/whole_numbers.py [--repeats N]

Linear: 512 to 2048, the input in floats, so that rounding it counts. Attention: relative positions, 8 heads of 64,
queries to weighted values. One thread; of each side the shortest seconds of the processor, the sides in turn. Needs a
processor with AMX and the compiled library, see docs/encoder.md.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peers import save
from torch import nn

from aronnax.collections.common.nn import attention
from aronnax.collections.common.nn.attention import AttentionPlan, RelativeAttention
from aronnax.collections.common.nn.linear import Linear
from aronnax.collections.common.nn.windows import Attention
from aronnax.core import tiles
from aronnax.core.quantise import QuantisedLinear, SixteenBitLinear, quantise

WIDTH, INNER, HEADS = 512, 2048, 8
ROWS = (1, 16, 64, 318, 1500)
FRAMES = (125, 318, 500)


def shortest(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Microseconds of each side, all in turn."""
    times = dict.fromkeys(sides, float("inf"))
    # Models are made outside of it: what is computed from their weights is not kept inside for those made there.
    with torch.inference_mode():
        for _ in range(repeats):
            for name, side in sides.items():
                start = time.process_time()
                side()
                times[name] = min(times[name], time.process_time() - start)
    return {name: 1e6 * taken for name, taken in times.items()}


def linear(rows: int, repeats: int) -> dict[str, float]:
    """One layer on so many rows."""
    layer, x = Linear(WIDTH, INNER), torch.randn(rows, WIDTH)
    sides: dict[str, nn.Module] = {
        "fp32": layer,
        "int16, oneDNN": SixteenBitLinear(layer.weight, layer.bias),
        "int8, oneDNN": QuantisedLinear(layer.weight, layer.bias),
        "int16": quantise(nn.Sequential(copy.deepcopy(layer)), "int16")[0],
        "int8": quantise(nn.Sequential(copy.deepcopy(layer)), "int8")[0],
    }
    return shortest({name: lambda side=side: side(x) for name, side in sides.items()}, repeats)


def attending(frames: int, repeats: int) -> dict[str, float]:
    """The attention of one layer, projections included, in int16 with floats and with tiles between them."""
    layer = quantise(RelativeAttention(WIDTH, HEADS, 0.0).eval(), "int16")
    x, lengths = torch.randn(1, frames, WIDTH), torch.tensor([frames])
    plan = AttentionPlan.make(Attention(), lengths, frames, HEADS, WIDTH, x, padded=False)
    projections = shortest({"projections": lambda: [layer.linear_q(x) for _ in range(4)]}, repeats)

    def in_floats() -> None:
        kept, attention.TiledLinear = attention.TiledLinear, ()
        layer(x, plan)
        attention.TiledLinear = kept

    return {**shortest({"floats": in_floats, "tiles": lambda: layer(x, plan)}, repeats), **projections}


def main() -> None:
    """Measure, print the ratios, save them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    if tiles.library() is None:
        raise SystemExit(
            "this processor has no AMX, or tiles.c was not compiled: there is nothing to compare"
        )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {
        "linear": {f"{rows} rows": linear(rows, options.repeats) for rows in ROWS},
        "attention": {f"{frames} frames": attending(frames, options.repeats) for frames in FRAMES},
    }
    for what, lines in found.items():
        print(f"\n{what}, microseconds (times as fast as the first)")
        for size, times in lines.items():
            first = next(iter(times.values()))
            told = (f"{name} {taken:.0f} ({first / taken:.1f})" for name, taken in times.items())
            print(f"  {size:>10}  " + "   ".join(told))
    save("whole_numbers", found)


if __name__ == "__main__":
    main()
