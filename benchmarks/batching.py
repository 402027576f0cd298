"""No buckets, buckets by duration, and buckets by duration and tokens, under an encoder-decoder.

    python benchmarks/batching.py [--recordings N] [--seconds S] [--batch-duration S]

Durations are log-normal and so are token rates, as in corpora that mix read speech, talks and calls; every target has
a prompt of ten tokens. For each way: the padding of encoder and decoder over a whole pass, and optimizer steps and
seconds of speech per second of a tiny Canary model trained on noise. Each way gets the same seconds of signal in a
batch, padding counted.
"""

from __future__ import annotations

import argparse
import logging
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from peers import save
from torch import Tensor

from aronnax.collections.asr.canary.config import CanaryConfig
from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.data import BatchingConfig, DataConfig, SpeechDataModule, made_cut
from aronnax.collections.common.data.bins import estimate_bins, estimate_bins_2d
from aronnax.collections.common.data.filters import count_tokens, note_number

RATE, PROMPT, VOCABULARY = 16000, 10, 512


def noise(seed: int, samples: int) -> np.ndarray:
    """Seeded noise, float32 [S]."""
    return np.random.default_rng(seed).standard_normal(samples, dtype=np.float32) * 0.1


def corpus(count: int) -> list[Cut]:
    """Median 5 s and 3.2 tokens a second; nine tenths of the rates lie between 1.8 and 5.7."""
    generator = np.random.default_rng(0)
    durations = np.clip(generator.lognormal(np.log(5.0), 0.7, count), 0.5, 20.0)
    rates = generator.lognormal(np.log(3.2), 0.35, count)
    cuts = []
    for index, (duration, rate) in enumerate(zip(durations, rates)):
        samples = int(duration * RATE)
        cut = made_cut(partial(noise, index, samples), samples, RATE, "", f"{index}")
        cuts.append(note_number(cut, int(duration * rate) + PROMPT))
    return cuts


def ways(cuts: list[Cut], batch_duration: float) -> dict[str, BatchingConfig]:
    """The configuration of each way to make batches."""
    seconds, tokens = [cut.duration for cut in cuts], [count_tokens(cut, None) for cut in cuts]
    options: dict[str, Any] = {"batch_duration": batch_duration}
    flat = tuple(estimate_bins(seconds, 30)[:-1])
    found = estimate_bins_2d(seconds, tokens, 30, 2)
    edges = {(edge[0] + 0.001, edge[1]): rate for edge, rate in zip(found.edges, found.max_tokens_per_second)}
    return {
        "none": BatchingConfig(**options, buckets=1),
        "1-D, 30": BatchingConfig(**options, bucket_duration_bins=flat),
        "2-D, 30 x 2": BatchingConfig(
            **options, bucket_duration_bins=tuple(edges), bucket_max_tokens_per_second=tuple(edges.values())
        ),
    }


def make_batch(cuts: list[Cut], signals: list[Tensor]) -> dict[str, Tensor]:
    """Padded signals [B, S] and random tokens [B, U] of the noted numbers."""
    lengths = torch.tensor([signal.shape[0] for signal in signals])
    counts = torch.tensor([count_tokens(cut, None) for cut in cuts])
    return {
        "signal": torch.nn.utils.rnn.pad_sequence(signals, batch_first=True),
        "lengths": lengths,
        "tokens": torch.randint(1, VOCABULARY, (len(cuts), int(counts.max()))),
        "counts": counts,
    }


def module(cuts: list[Cut], batching: BatchingConfig) -> SpeechDataModule[dict[str, Tensor]]:
    """The data module of one way."""
    data = DataConfig(batching=batching, num_workers=0)
    return SpeechDataModule(data, make_batch, train=cuts, examine=lambda cut: None)


def padding(data: SpeechDataModule[Any]) -> dict[str, float]:
    """Shares of padding in one pass; no audio is made."""
    used, padded, batches = np.zeros(2), np.zeros(2), 0
    for batch in data.batches():
        lengths = np.array([(cut.duration, count_tokens(cut, None)) for cut in batch])
        used += lengths.sum(axis=0)
        padded += lengths.max(axis=0) * len(lengths)
        batches += 1
    encoder, decoder = 1.0 - used / padded
    return {"encoder_padding": float(encoder), "decoder_padding": float(decoder), "batches": batches}


def train(data: SpeechDataModule[dict[str, Tensor]], seconds: float) -> dict[str, float]:
    """Optimizer steps, and seconds of speech, per second."""
    torch.manual_seed(0)
    config = CanaryConfig(
        vocab_size=VOCABULARY,
        preprocessor=LogMelConfig(n_mels=80),
        encoder=FastConformerConfig(
            feat_in=80, n_layers=3, d_model=96, n_heads=4, subsampling_conv_channels=64
        ),
        decoder=TransformerDecoderConfig(hidden_size=128, inner_size=512, n_layers=4, n_heads=4),
    )
    model = CanaryModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps, speech, began = -2, 0.0, 0.0
    for batch in data.train_dataloader():
        if steps == 0:
            speech, began = 0.0, time.perf_counter()
        encoded = model.encode(batch["signal"], batch["lengths"])
        tokens = batch["tokens"]
        scores = model.forward_tokens(encoded.states, encoded.lengths, tokens[:, :-1], batch["counts"] - 1)
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(scores.transpose(1, 2), tokens[:, 1:]).backward()
        optimizer.step()
        steps += 1
        speech += float(batch["lengths"].sum()) / RATE
        if steps > 0 and time.perf_counter() - began > seconds:
            break
    passed = time.perf_counter() - began
    return {"steps_per_second": steps / passed, "speech_per_second": speech / passed}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of training for each way; 0 for none")
    parser.add_argument("--batch-duration", type=float, default=60.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    cuts = corpus(options.recordings)
    results = {}
    print("| buckets | encoder padding | decoder padding | batches | steps/s | speech s/s |")
    print("|---|---|---|---|---|---|")
    for name, batching in ways(cuts, options.batch_duration).items():
        row = padding(module(cuts, batching))
        if options.seconds:
            row |= train(module(cuts, batching), options.seconds)
        results[name] = row
        print(
            f"| {name} | {row['encoder_padding']:.1%} | {row['decoder_padding']:.1%} | {row['batches']} | "
            f"{row.get('steps_per_second', 0):.2f} | {row.get('speech_per_second', 0):.1f} |",
            flush=True,
        )
    if options.seconds:
        save("batching", {"options": vars(options), "rows": results})


if __name__ == "__main__":
    main()
