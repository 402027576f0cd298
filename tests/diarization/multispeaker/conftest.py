"""Small models with random weights, and sessions to hear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aronnax.collections.asr.canary.config import CanaryConfig, DecodingConfig
from aronnax.collections.asr.canary.decoder import TransformerDecoderConfig
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.asr.ctc.model import CTCModel, CTCModelConfig
from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.asr.hybrid.model import HybridModel, HybridModelConfig
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.asr.transducer.joint import JointConfig
from aronnax.collections.asr.transducer.model import TransducerModel, TransducerModelConfig
from aronnax.collections.asr.transducer.prediction import PredictionConfig
from aronnax.collections.common.audio.augment import SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text import train_sentencepiece
from aronnax.collections.common.text.prompts import second_generation, train_canary_tokenizer
from aronnax.collections.diarization.multispeaker.model import MultispeakerModel
from aronnax.collections.diarization.multispeaker.vocabulary import with_speaker_tokens
from aronnax.collections.diarization.sortformer.config import SortformerConfig, TransformerConfig
from aronnax.collections.diarization.sortformer.model import SortformerModel

RATE = 16000
WORDS = ("low", "high")
TOKENS = [f"<|spltoken{number}|>" for number in range(2)]
STILL = SpecAugmentConfig(freq_masks=0, time_masks=0)
FRONT = LogMelConfig(n_mels=16, dither=0.0)


def encoder(width: int = 16, layers: int = 1) -> FastConformerConfig:
    return FastConformerConfig(
        feat_in=16,
        n_layers=layers,
        d_model=width,
        n_heads=2,
        subsampling_conv_channels=8,
        conv_kernel_size=5,
        dropout=0.0,
        dropout_pre_encoder=0.0,
        dropout_att=0.0,
    )


def recogniser(kind: str, width: int = 16, layers: int = 1) -> SpeechRecognizer:
    """A model of that type for two words, speaker tokens included."""
    torch.manual_seed(2)
    shared = {"preprocessor": FRONT, "encoder": encoder(width, layers), "spec_augment": STILL}
    if kind == "canary":
        return with_speaker_tokens(_canary(width, shared), TOKENS).eval()
    tokenizer = train_sentencepiece([" ".join(WORDS)] * 20, 12, "bpe")
    prediction, joint = (
        PredictionConfig(hidden=12, layers=1, dropout=0.0),
        JointConfig(hidden=12, dropout=0.0),
    )
    size = tokenizer.vocab_size
    made: SpeechRecognizer
    if kind == "ctc":
        made = CTCModel(CTCModelConfig(size, **shared), tokenizer)
    elif kind == "transducer":
        config = TransducerModelConfig(size, **shared, prediction=prediction, joint=joint)
        made = TransducerModel(config, tokenizer)
    else:
        hybrid = HybridModelConfig(size, **shared, prediction=prediction, joint=joint, durations=(0, 1, 2))
        made = HybridModel(hybrid, tokenizer)
    return with_speaker_tokens(made, TOKENS).eval()


def _canary(width: int, shared: dict) -> CanaryModel:
    specials = second_generation(["en"], frames=0, speakers=0, spare=0)
    tokenizer = train_canary_tokenizer({"en": [" ".join(WORDS)] * 20}, 12, specials)
    decoder = TransformerDecoderConfig(
        hidden_size=width,
        inner_size=2 * width,
        n_layers=2,
        n_heads=2,
        max_sequence_length=64,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        layer_dropout=0.0,
        ffn_dropout=0.0,
    )
    config = CanaryConfig(
        vocab_size=tokenizer.vocab_size,
        decoder=decoder,
        prompt_defaults={"source_lang": "en", "target_lang": "en"},
        decoding=DecodingConfig(max_generation_delta=8),
        **shared,
    )
    return CanaryModel(config, tokenizer)


def diarizer(speakers: int = 4, **options: object) -> SortformerModel:
    """A random diarizer whose probabilities lie all about one half."""
    torch.manual_seed(1)
    options.setdefault("preprocessor", LogMelConfig(n_mels=16, normalize="none", dither=0.0))
    small = TransformerConfig(n_layers=1, width=8, inner=16, n_heads=2)
    made = SortformerModel(
        SortformerConfig(max_speakers=speakers, encoder=encoder(), transformer=small, **options)  # type: ignore[arg-type]
    )
    return made.eval()


def multispeaker(kind: str = "ctc", **options: object) -> MultispeakerModel:
    """A recogniser of that type with a diarizer, for two speakers."""
    return MultispeakerModel.of(recogniser(kind), diarizer(), speakers=2, **options).eval()


def noises(seconds: list[float], seed: int = 0) -> list[np.ndarray]:
    """Noise whose loudness changes, so that random weights hear something else at each place."""
    draw = np.random.default_rng(seed)
    found = []
    for length in seconds:
        samples = round(length * RATE)
        shape = np.repeat(draw.uniform(0.01, 0.5, samples // 1600 + 1), 1600)[:samples]
        found.append((shape * draw.standard_normal(samples)).astype(np.float32))
    return found


@pytest.fixture(params=["ctc", "transducer", "hybrid", "canary"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
