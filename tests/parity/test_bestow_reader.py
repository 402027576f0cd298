"""BESTOW's reader and lagging against NeMo 3.0.0 (fixtures/bestow_reader.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aronnax.collections.speechlm.bestow.latency import laal
from aronnax.collections.speechlm.bestow.reader import Reader, ReaderConfig

FIXTURE = np.load(Path(__file__).resolve().parent / "fixtures" / "bestow_reader.npz")


def tensor(name):
    return torch.from_numpy(FIXTURE[name])


def reader():
    made = Reader(ReaderConfig(n_heads=4), 16).eval()
    names = [name for name in FIXTURE.files if name.startswith("weights/")]
    made.load_state_dict({f"xattn_decoder.{name[8:]}": tensor(name) for name in names})
    return made


def test_the_reader_equals_nemos_decoder_with_its_input_added():
    text, frames = tensor("text"), tensor("frames")
    with torch.no_grad():
        ours = reader()(text, tensor("speech"), frames[:, None].expand(text.shape[:2]))
    written = torch.arange(text.shape[1]) < tensor("tokens")[:, None]
    assert (ours[written] - tensor("read")[written]).abs().max() < 1e-5


def test_cached_steps_equal_nemos_decoder():
    made, text, speech, frames = reader(), tensor("text"), tensor("speech"), tensor("frames")
    one = torch.ones(len(text), dtype=torch.int64)
    memory = made.remember(speech, frames)
    first, cache = made.prefill(text[:, :1], one, frames[:, None], memory, text.shape[1])
    steps = [first[:, 0], *(made.step(text[:, place], cache) for place in range(1, text.shape[1]))]
    written = torch.arange(text.shape[1]) < tensor("tokens")[:, None]
    assert (torch.stack(steps, 1)[written] - tensor("read")[written]).abs().max() < 1e-5


def test_lagging_equals_nemos_for_200_answers():
    for delays, words, source, reference, wanted in zip(
        FIXTURE["delays"],
        FIXTURE["delay_lengths"],
        FIXTURE["sources"],
        FIXTURE["references"],
        FIXTURE["laal"],
    ):
        found = laal(delays[:words].tolist(), float(source), int(reference))
        assert abs(found - wanted) < 1e-9
