"""Decoding of language models beside transformers' `generate`: same weights, same prompts, greedy, texts compared.

python benchmarks/llm_decoding.py [--repeats N] [--threads N] [--only NAME ...]

Random models of several sizes decode prompts of 8 to 32 tokens, at batch 1 and 16; transformers with its dynamic and
with its static cache. Neither side tells log-probabilities. The bare products of prompts and steps are timed beside
them: where the head is not screened (see screening.py), no ratio can be higher.
Sides take turns. With one thread processor time is counted, for machines that are busy otherwise; else wall time.
Where there is a GPU, a model of 1.7 thousand million parameters runs in bfloat16 there, with CUDA graphs and without,
beside transformers with a static cache and `torch.compile`; there wall time counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from peers import RESULTS, alternate, save

from aronnax.collections.common.nn.generation import GenerationOptions, generate
from aronnax.collections.llm.backbone import Backbone, BackboneConfig, few_rows
from aronnax.collections.llm.backbone.padding import to_left

LONGEST = 32
NEW = 64
WANTED = {1: 1.5, 16: 1.2}
_LLAMA = {
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "head_dim": 64,
    "initializer_range": 0.05,
}


def _llama(layers: int, width: int, inner: int, heads: int, shared: int, vocabulary: int) -> dict[str, Any]:
    return _LLAMA | {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
    }


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 4x256": ("llama", _llama(4, 256, 688, 4, 2, 2000)),
    "llama 30M": ("llama", _llama(8, 512, 1376, 8, 4, 8000)),
    "llama 100M": ("llama", _llama(12, 768, 2048, 12, 4, 32000)),
    "nemotron_h toy": (
        "nemotron_h",
        {
            "hybrid_override_pattern": "MEM*EMEM*E",
            "vocab_size": 2000,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "ssm_state_size": 32,
            "mamba_num_heads": 8,
            "mamba_head_dim": 64,
            "n_groups": 2,
            "chunk_size": 64,
            "n_routed_experts": 16,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "moe_shared_expert_intermediate_size": 512,
            "max_position_embeddings": 512,
            "initializer_range": 0.05,
        },
    ),
}
"""Name: architecture, settings."""
LARGE = _llama(28, 2048, 6144, 16, 8, 151936) | {"head_dim": 128, "max_position_embeddings": 4096}


def prompts(backbone: Backbone, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, U] padded on the right, and lengths [B]."""
    draw = torch.Generator().manual_seed(batch)
    lengths = torch.randint(8, LONGEST + 1, (batch,), generator=draw)
    lengths[0] = LONGEST
    ids = torch.randint(3, backbone.vocab_size, (batch, LONGEST), generator=draw)
    device = backbone.embedding.weight.device
    return (ids * (torch.arange(LONGEST) < lengths[:, None])).to(device), lengths.to(device)


@torch.inference_mode()
def ours(backbone: Backbone, ids: torch.Tensor, lengths: torch.Tensor, new: int) -> list[list[int]]:
    """The new tokens of each row."""
    decoder = backbone.bind(backbone.embed(ids), lengths)
    options = GenerationOptions(log_probs=False)
    answers = generate(decoder, ids, lengths, eos=-1, limits=lengths + new, options=options)
    return [row[0].tokens for row in answers]


@torch.inference_mode()
def theirs(
    backbone: Backbone, ids: torch.Tensor, lengths: torch.Tensor, new: int, cache: str | None
) -> list[list[int]]:
    """The same by transformers, which wants padding on the left."""
    turned = to_left(ids[..., None], lengths)[..., 0]
    mask = torch.arange(LONGEST, device=ids.device) >= LONGEST - lengths[:, None]
    causal: Any = backbone.causal
    causal.generation_config.eos_token_id = None
    out = causal.generate(
        turned,
        attention_mask=mask.long(),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        cache_implementation=cache,
    )
    return out[:, LONGEST:].tolist()


def products(backbone: Backbone, rows: int, head: bool) -> Callable[[], Any]:
    """The products of `rows` positions alone, experts aside, each the fastest way known."""
    layers = [part for part in backbone.modules() if isinstance(part, torch.nn.Linear)]
    layers = [one for one in layers if head or one.out_features != backbone.vocab_size]
    inputs = [torch.randn(rows, layer.in_features) for layer in layers]
    weights = [layer.weight.detach() for layer in layers]
    if rows == 1:
        weights = [weight.t().contiguous().t() for weight in weights]

    @torch.inference_mode()
    def call() -> None:
        for x, weight in zip(inputs, weights):
            if few_rows.suits(x, weight):
                few_rows.product(x, weight)
            else:
                torch.mm(x, weight.t())

    return call


def timed(function: Callable[[], Any], clock: Callable[[], float]) -> Callable[[], float]:
    """Seconds of one call by `clock`."""

    def call() -> float:
        start = clock()
        function()
        return clock() - start

    return call


def compare(name: str, batch: int, repeats: int, threads: int) -> dict[str, Any]:
    """One model at one batch size on the CPU; print and return the row."""
    (architecture, settings), new = SHAPES[name], NEW
    # Threads that wait for each other use the processor too.
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(architecture, settings)).eval()
    ids, lengths = prompts(backbone, batch)
    sides = {
        "aronnax": lambda: ours(backbone, ids, lengths, new),
        "transformers dynamic": lambda: theirs(backbone, ids, lengths, new, None),
        "transformers static": lambda: theirs(backbone, ids, lengths, new, "static"),
    }
    texts = {side: call() for side, call in sides.items()}
    same = all(text == texts["aronnax"] for text in texts.values())
    clocks = {side: timed(call, clock) for side, call in sides.items()}
    prompt, step = products(backbone, int(lengths.sum()), False), products(backbone, batch, True)
    clocks["products"] = timed(lambda: [prompt(), *(step() for _ in range(new - 1))], clock)
    times = alternate(clocks, repeats, warmup=0)
    limit = batch * new / times.pop("products")
    speeds = {side: batch * new / value for side, value in times.items()}
    best = max(speed for side, speed in speeds.items() if side != "aronnax")
    ratio = speeds["aronnax"] / best
    millions = sum(one.numel() for one in backbone.parameters()) / 1e6
    print(
        f"{name} ({millions:.1f} M), batch {batch}, {threads} threads: texts {'equal' if same else 'DIFFER'}"
    )
    print("  " + "  ".join(f"{side} {speed:.0f} tokens/s" for side, speed in speeds.items()))
    print(f"  products alone {limit:.0f} tokens/s, {limit / best:.2f} times the better")
    met = "met" if ratio >= WANTED[batch] else "MISSED"
    print(f"  ratio to the better: {ratio:.2f} (wanted {WANTED[batch]}: {met})", flush=True)
    return {
        "model": name,
        "millions": round(millions, 2),
        "batch": batch,
        "threads": threads,
        "new_tokens": new,
        "same": same,
        "tokens_a_second": speeds,
        "products_alone": limit,
        "ratio": ratio,
    }


def on_gpu(repeats: int) -> list[dict[str, Any]]:
    """The large model on a GPU: graphs on and off, and transformers compiled."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        backbone = Backbone(BackboneConfig("llama", LARGE)).to("cuda", torch.bfloat16).eval()
    rows, new = [], 128
    for batch in (1, 32):
        ids, lengths = prompts(backbone, batch)

        def run(fixed: bool, ids: torch.Tensor = ids, lengths: torch.Tensor = lengths) -> Any:
            backbone.fixed = fixed
            found = ours(backbone, ids, lengths, new)
            torch.cuda.synchronize()
            return found

        sides: dict[str, Callable[[], Any]] = {
            "aronnax graphs": lambda: run(True),
            "aronnax eager": lambda: run(False),
            "transformers static compiled": lambda i=ids, n=lengths: theirs(backbone, i, n, new, "static"),  # type: ignore[misc]
        }
        clocks = {side: timed(call, time.perf_counter) for side, call in sides.items()}
        times = alternate(clocks, repeats, warmup=2)
        speeds = {side: batch * new / value for side, value in times.items()}
        print(f"{torch.cuda.get_device_name()}, batch {batch}: ", speeds, flush=True)
        rows.append({"batch": batch, "new_tokens": new, "tokens_a_second": speeds})
    return rows


def stored() -> dict[str, Any]:
    """The results so far."""
    path = RESULTS / "llm_decoding.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    return found


def place(row: dict[str, Any]) -> tuple[int, int, int]:
    """Where a row belongs among the results."""
    return row["threads"], list(SHAPES).index(row["model"]), row["batch"]


def keep(row: dict[str, Any]) -> None:
    """Put a row in its place among the results."""
    found = stored()
    rows = [one for one in found["rows"] if place(one) != place(row)] + [row]
    save("llm_decoding", found | {"rows": sorted(rows, key=place)})


def main() -> None:
    """Run the comparison and write benchmarks/results/llm_decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(SHAPES), help="models; other results are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        for batch in (1, 16):
            keep(compare(name, batch, options.repeats, options.threads))
    if torch.cuda.is_available():
        gpu = {"device": torch.cuda.get_device_name(), "rows": on_gpu(options.repeats)}
        save("llm_decoding", stored() | {"gpu": gpu})


if __name__ == "__main__":
    main()
