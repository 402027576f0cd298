"""Writes tests/parity/fixtures/bestow_reader.npz with NeMo's Transformer decoder and lagging; run where NeMo is.

    python tests/parity/make/bestow_reader.py

Everything is random, small and ragged. BESTOW's block is NeMo's decoder without its embedding, its input added to its
output. The lagging has its delays in milliseconds, some beyond the source, as a look-ahead can make them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.modules.transformer.transformer_decoders import TransformerDecoder
from nemo.collections.asr.parts.utils.eval_utils import compute_laal

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "bestow_reader.npz"
WIDTH, LAYERS, HEADS = 16, 2, 4
FRAMES = [9, 1, 14, 6]
TOKENS = [7, 10, 3, 1]
LISTS, LONGEST = 200, 30


def lagging(out: dict[str, Any]) -> None:
    """Delays of 200 answers, and NeMo's lagging of each."""
    random = np.random.default_rng(0)
    delays, lengths, sources, references, values = [], [], [], [], []
    for _ in range(LISTS):
        source = float(random.uniform(300, 6000))
        words = int(random.integers(1, LONGEST))
        heard = np.sort(random.uniform(0, source * random.uniform(0.7, 1.4), words))
        heard = np.minimum(heard, source) if random.random() < 0.7 else heard
        reference = int(random.integers(1, LONGEST))
        values.append(float(compute_laal(heard.tolist(), source, reference)))
        delays.append(np.pad(heard, (0, LONGEST - words)))
        lengths.append(words)
        sources.append(source)
        references.append(reference)
    out |= {"delays": np.array(delays), "delay_lengths": np.array(lengths), "sources": np.array(sources)}
    out |= {"references": np.array(references), "laal": np.array(values)}


@torch.no_grad()
def main() -> None:
    """Write the fixture."""
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        num_layers=LAYERS,
        hidden_size=WIDTH,
        inner_size=WIDTH,
        num_attention_heads=HEADS,
        hidden_act="relu",
        pre_ln=True,
        pre_ln_final_layer_norm=True,
    ).eval()
    for name, parameter in decoder.named_parameters():
        parameter.normal_(float("norm" in name and name.endswith("weight")), 0.4)
    text, speech = torch.randn(len(TOKENS), max(TOKENS), WIDTH), torch.randn(len(FRAMES), max(FRAMES), WIDTH)
    frames, tokens = torch.tensor(FRAMES), torch.tensor(TOKENS)
    written = (torch.arange(max(TOKENS)) < tokens[:, None]).float()
    heard = (torch.arange(max(FRAMES)) < frames[:, None]).float()
    read, _ = decoder(text, written, speech, heard)
    out: dict[str, Any] = {f"weights/{name}": value.numpy() for name, value in decoder.state_dict().items()}
    out |= {"text": text.numpy(), "speech": speech.numpy(), "read": (read + text).numpy()}
    out |= {"frames": frames.numpy(), "tokens": tokens.numpy()}
    lagging(out)
    np.savez_compressed(FIXTURE, **out)


if __name__ == "__main__":
    main()
