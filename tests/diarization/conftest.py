from __future__ import annotations

import numpy as np
import pytest
import torch

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.diarization.sortformer.config import SortformerConfig, TransformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel


def tiny(speakers: int = 4, **options: object) -> SortformerModel:
    """A random model whose outputs differ from frame to frame."""
    torch.manual_seed(1)
    encoder = FastConformerConfig(
        feat_in=16, n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=4, ff_expansion_factor=1
    )
    options.setdefault("preprocessor", LogMelConfig(n_mels=16, normalize="none"))
    model = SortformerModel(
        SortformerConfig(
            max_speakers=speakers,
            encoder=encoder,
            transformer=TransformerConfig(n_layers=1, width=8, inner=16, n_heads=2),
            **options,  # type: ignore[arg-type]
        )
    ).eval()
    _spread(model)
    return model


@torch.no_grad()
def _spread(model: SortformerModel) -> None:
    """Lets the outputs follow the directions in which what the head sees differs most, mostly quiet."""
    # Wider weights make frames differ by themselves; a steep head would also blow up the last bits.
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_(3.0)
    seen = []
    head = model.sortformer_modules.single_hidden_to_spks
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    samples = torch.from_numpy(_session())[None, : 16000 * 20]
    model(samples, torch.tensor([samples.shape[1]]))
    hook.remove()
    hidden = seen[0]
    _, _, directions = torch.linalg.svd(hidden - hidden.mean(0), full_matrices=False)
    rows = [directions[k // 2 % 2] * (1 if k % 2 else -1) for k in range(model.max_speakers)]
    weight = torch.stack(rows)
    head.weight.copy_(weight * (2.5 / (hidden @ weight.T).std(0))[:, None])
    head.bias.copy_(-(hidden @ head.weight.T).quantile(0.75, dim=0))


@pytest.fixture(scope="session")
def model() -> SortformerModel:
    return tiny()


@pytest.fixture(scope="session")
def session() -> np.ndarray:
    """Forty seconds of tones and pauses, float32 [S] at 16 kHz."""
    return _session()


def _session() -> np.ndarray:
    generator = np.random.default_rng(0)
    pieces = []
    for pitch in generator.integers(80, 400, 32):
        time = np.arange(generator.integers(8000, 32000)) / 16000
        loud = 0.0 if pitch % 5 == 0 else 0.3
        pieces.append(loud * np.sin(2 * np.pi * pitch * time) + 0.01 * generator.standard_normal(len(time)))
    return np.concatenate(pieces)[: 40 * 16000].astype(np.float32)
