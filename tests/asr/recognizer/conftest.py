"""Two recognisers: one that hears tones exactly, and a small real one with random weights and two heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.hybrid.model import HybridModel, HybridModelConfig
from aronnax.collections.asr.transducer.model import JointConfig, PredictionConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text import CharacterTokenizer
from tests.asr.recognizer.tones import ToneModel

RATE = 16000


def small_model() -> HybridModel:
    """A TDT-CTC hybrid whose random heads say something else for every sound."""
    torch.manual_seed(0)
    tokenizer = CharacterTokenizer([" ", *"abcdefghij", "."])
    encoder = FastConformerConfig(
        feat_in=16, n_layers=2, d_model=16, n_heads=2, subsampling_conv_channels=8, conv_kernel_size=5
    )
    config = HybridModelConfig(
        vocab_size=tokenizer.vocab_size,
        preprocessor=LogMelConfig(n_mels=16),
        encoder=encoder,
        prediction=PredictionConfig(hidden=8),
        joint=JointConfig(hidden=8),
        durations=(0, 1, 2, 3, 4),
    )
    model = HybridModel(config, tokenizer).eval()
    with torch.no_grad():
        model.ctc_decoder.decoder_layers[0].weight.normal_(std=3.0)
        for parameter in model.joint.parameters():
            parameter.mul_(4)
    return model


def noises(seconds: list[float], seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Recordings of changing noise."""
    chance = np.random.default_rng(seed)
    recordings = []
    for length in seconds:
        samples = round(length * RATE)
        loudness = np.repeat(chance.random(samples // 1600 + 1), 1600)[:samples]
        recordings.append(((chance.normal(size=samples) * loudness * 0.2).astype(np.float32), RATE))
    return recordings


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small are slower with more threads, far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tone_model() -> ToneModel:
    return ToneModel()


@pytest.fixture(scope="session")
def model() -> HybridModel:
    return small_model()


@pytest.fixture(scope="session")
def checkpoint(model: HybridModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as a checkpoint folder."""
    return model.save_pretrained(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Three seconds of noise in a file."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, noises([3.0])[0][0], RATE)
    return path
