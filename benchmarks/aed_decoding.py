"""One decoding step of Canary-180M-flash's decoder beside NeMo and transformers: forced 100 tokens, random weights.

ARONNAX_NEMO_PYTHON=/path/to/nemo/bin/python python benchmarks/aed_decoding.py [--repeats N] [--threads N]

All sides decode greedily from the same encoder states (125 frames, ten seconds of speech). NeMo has the same weights,
and the tokens are compared. transformers runs BART's decoder, whose layers are Canary's, at the same shape.
A step is the time of the whole call, prompt and cross-attention's keys included, divided by the tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peers import Peer, alternate, nemo_python, save, seconds

from aronnax.collections.asr.canary.decoder import (
    TokenClassifier,
    TransformerDecoder,
    TransformerDecoderConfig,
)
from aronnax.collections.asr.canary.stepping import Stepper
from aronnax.collections.common.nn.generation import generate
from aronnax.core.quantise import quantise

SHAPE = {"width": 1024, "inner": 4096, "layers": 4, "heads": 8, "vocabulary": 5248, "longest": 1024}
FRAMES, TOKENS, EOS = 125, 100, 2
PROMPT = [7, 4, 16, 62, 62, 5, 9, 11, 13]
WANTED = {(1, "nemo", ""): 2.5, (8, "nemo", ""): 8.0, (1, "nemo", " int8"): 5.0}
WANTED |= {(batch, "transformers", ""): 1.3 for batch in (1, 8)}


def make() -> tuple[TransformerDecoder, TokenClassifier]:
    """Random modules that never say the end."""
    torch.manual_seed(0)
    config = TransformerDecoderConfig(
        SHAPE["width"], SHAPE["inner"], SHAPE["layers"], SHAPE["heads"], SHAPE["longest"]
    )
    decoder = TransformerDecoder(config, SHAPE["vocabulary"]).eval()
    head = TokenClassifier(SHAPE["width"], SHAPE["vocabulary"]).eval()
    head.tie(decoder.token_embedding)
    with torch.no_grad():
        # An untrained decoder repeats its last token for ever; larger layers make it say something.
        for layer in decoder.stack.layers:
            for weight in layer.parameters():
                weight.mul_(1.5)
        head.mlp.layer0.bias[EOS] = -1e4
    return decoder, head


def decode(stepper: Stepper, states: torch.Tensor) -> list[list[int]]:
    """The 100 tokens of each row."""
    batch = len(states)
    bound = stepper.bind(states, torch.full((batch,), states.shape[1]))
    prompts, lengths = torch.tensor([PROMPT] * batch), torch.full((batch,), len(PROMPT))
    answers = generate(bound, prompts, lengths, eos=EOS, limits=lengths + TOKENS)
    return [answer[0].tokens for answer in answers]


def compare(
    batch: int, sides: dict[str, Any], peers: dict[str, Peer], states: torch.Tensor, repeats: int
) -> Any:
    """Time all sides at one batch size; print and return the row."""
    arguments = {"batch": batch, "prompt": PROMPT, "tokens": TOKENS}
    # These calls warm all sides up, too.
    peers["transformers"].call("decode", **arguments)
    theirs = peers["nemo"].call("decode", **arguments)["tokens"]
    same = theirs == decode(sides["aronnax"], states[:batch])
    kept = sum(
        mine == exact
        for row, other in zip(decode(sides["aronnax int8"], states[:batch]), theirs)
        for mine, exact in zip(row, other)
    )
    calls = {
        name: (lambda s=side: seconds(lambda: decode(s, states[:batch]))) for name, side in sides.items()
    }
    calls |= {name: (lambda p=peer: p.call("decode", **arguments)["seconds"]) for name, peer in peers.items()}
    times = {name: value / TOKENS * 1e3 for name, value in alternate(calls, repeats, warmup=0).items()}
    print(f"batch {batch}: " + "  ".join(f"{name} {value:.1f} ms" for name, value in times.items()))
    print(f"  tokens {'equal' if same else 'DIFFER FROM'} NeMo's; int8: {kept} of {batch * TOKENS} equal")
    ratios = {}
    for peer in peers:
        for kind in ("", " int8"):
            ratio = ratios[f"{peer}{kind}"] = times[peer] / times[f"aronnax{kind}"]
            wanted = WANTED.get((batch, peer, kind))
            goal = "" if wanted is None else f" (wanted {wanted}: {'met' if ratio >= wanted else 'MISSED'})"
            print(f"  {peer} / aronnax{kind}: {ratio:.2f}{goal}", flush=True)
    return {"batch": batch, "same": same, "int8_equal_tokens": kept, "ms_a_step": times, "ratios": ratios}


def main() -> None:
    """Run the comparison and write benchmarks/results/aed_decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    decoder, head = make()
    states = torch.randn(8, FRAMES, SHAPE["width"])
    small = quantise(torch.nn.ModuleList([deepcopy(decoder), deepcopy(head)]))
    sides = {"aronnax": Stepper(decoder, head), "aronnax int8": Stepper(small[0], small[1])}
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        torch.save({"decoder": decoder.state_dict(), "head": head.state_dict(), "states": states}, weights)
        peers = {
            "nemo": Peer(nemo_python(), "nemo_aed.py"),
            "transformers": Peer(sys.executable, "transformers_aed.py"),
        }
        for peer in peers.values():
            peer.call("build", weights=weights, shape=SHAPE, threads=options.threads)
        rows = [compare(batch, sides, peers, states, options.repeats) for batch in (1, 8)]
        for peer in peers.values():
            peer.close()
    save(
        "aed_decoding",
        {"shape": SHAPE, "frames": FRAMES, "tokens": TOKENS, "threads": options.threads, "rows": rows},
    )


if __name__ == "__main__":
    main()
