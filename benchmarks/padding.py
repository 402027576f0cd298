"""Padding waste: log-normal durations, 30 buckets against none.

    python benchmarks/padding.py [--recordings N] [--steps N] [--batch-duration S]

For each setting: the share of padded frames over a whole pass, and optimizer steps and seconds of speech per second
of a small real FastConformer-CTC, trained on noise that the workers make (so that no disk is measured). Both settings
get the same seconds of signal, padding counted, in each batch; what buckets save shows as more speech per step.
"""

from __future__ import annotations

import argparse
import logging
import time
from functools import partial
from itertools import islice

import numpy as np
import torch
from lhotse.cut import Cut
from peers import save

from aronnax.collections.asr.batch import SpeechBatch, speech_data
from aronnax.collections.asr.ctc.loss import losses
from aronnax.collections.asr.ctc.model import CTCModel, CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.data import BatchingConfig, DataConfig, SpeechDataModule, made_cut
from aronnax.collections.common.text import CharacterTokenizer

RATE = 16000
TOKENIZER = CharacterTokenizer(list(" abcdefghij"))


def noise(seed: int, samples: int) -> np.ndarray:
    """Seeded noise, float32 [S]."""
    return np.random.default_rng(seed).standard_normal(samples, dtype=np.float32) * 0.1


def corpus(count: int) -> list[Cut]:
    """Cuts of log-normal duration: median 5 s, 0.5 to 20 s, about the shape of read speech mixed with queries."""
    generator = np.random.default_rng(0)
    durations = np.clip(generator.lognormal(np.log(5.0), 0.7, count), 0.5, 20.0)
    cuts = []
    for index, duration in enumerate(durations):
        samples = int(duration * RATE)
        text = "".join(generator.choice(list("abcdefghij "), int(duration * 5))).strip()
        cuts.append(made_cut(partial(noise, index, samples), samples, RATE, text, f"{index}"))
    return cuts


def data_module(cuts: list[Cut], buckets: int, batch_duration: float) -> SpeechDataModule[SpeechBatch]:
    """The data module with or without buckets."""
    batching = BatchingConfig(batch_duration=batch_duration, buckets=buckets)
    return speech_data(DataConfig(batching=batching, num_workers=1), TOKENIZER, train=cuts)


def padded_share(cuts: list[Cut], buckets: int, batch_duration: float) -> tuple[float, int]:
    """Share of padding in one pass, and its number of batches; no audio is made."""
    used = padded = 0.0
    batches = 0
    for batch in data_module(cuts, buckets, batch_duration).batches():
        lengths = [cut.duration for cut in batch]
        used += sum(lengths)
        padded += max(lengths) * len(lengths)
        batches += 1
    return 1.0 - used / padded, batches


def train(cuts: list[Cut], buckets: int, batch_duration: float, steps: int) -> tuple[float, float]:
    """Optimizer steps, and seconds of speech, per second."""
    torch.manual_seed(0)
    encoder = FastConformerConfig(n_layers=4, d_model=96, n_heads=4, subsampling_conv_channels=64)
    model = CTCModel(CTCModelConfig(encoder=encoder, vocab_size=TOKENIZER.vocab_size), TOKENIZER).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = data_module(cuts, buckets, batch_duration).train_dataloader()
    speech, began = 0.0, 0.0
    for index, batch in enumerate(islice(loader, steps + 2)):
        if index == 2:
            speech, began = 0.0, time.perf_counter()
        loss = losses(model, model.encode(batch.signal, batch.signal_lengths), batch)["ctc"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        speech += float(batch.signal_lengths.sum()) / RATE
    seconds = time.perf_counter() - began
    loader.close()
    return steps / seconds, speech / seconds


def main() -> None:
    """Print both settings side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-duration", type=float, default=60.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cuts = corpus(options.recordings)
    hours = sum(cut.duration for cut in cuts) / 3600
    print(f"{len(cuts)} recordings, {hours:.1f} h, batches of {options.batch_duration:g} s with padding")
    print("| buckets | padded frames | batches a pass | steps/s | speech s/s |")
    print("|---|---|---|---|---|")
    rows = {}
    for buckets in (1, 30):
        share, batches = padded_share(cuts, buckets, options.batch_duration)
        steps, speech = train(cuts, buckets, options.batch_duration, options.steps)
        name = "none" if buckets == 1 else str(buckets)
        print(f"| {name} | {share:.1%} | {batches} | {steps:.2f} | {speech:.1f} |")
        rows[name] = {"padded": share, "batches": batches, "steps a second": steps, "speech a second": speech}
    size = {"recordings": len(cuts), "hours": hours, "batch seconds": options.batch_duration}
    save("padding", {**size, "steps": options.steps, "threads": torch.get_num_threads(), "buckets": rows})


if __name__ == "__main__":
    main()
