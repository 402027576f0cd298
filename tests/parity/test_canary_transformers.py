"""Canary folders that transformers wrote load here with transformers' own log-probabilities (1e-4) and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import aronnax
from aronnax.collections.asr.canary.model import CanaryModel
from aronnax.collections.common.text.prompts import second_generation
from aronnax.core.errors import ConfigError
from tests.asr.canary.small_canary import TEXTS, noises

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "CanaryForConditionalGeneration"):
    pytest.skip("this transformers has no Canary", allow_module_level=True)

SPECIALS = second_generation(["en", "de"], frames=0, speakers=0, spare=0)
SIZE = 88


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> str:
    import sentencepiece
    from transformers.convert_slow_tokenizer import ParakeetConverter

    prefix = tmp_path_factory.mktemp("spm") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS["en"], *TEXTS["de"]]),
        model_prefix=str(prefix),
        vocab_size=SIZE,
        model_type="bpe",
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=SPECIALS,
        minloglevel=2,
    )
    text: str = ParakeetConverter(str(prefix.with_suffix(".model"))).converted().to_str()
    return text


def build() -> Any:
    encoder = {
        "model_type": "parakeet_encoder",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 16,
        "scale_input": False,
    }
    decoder = {
        "vocab_size": SIZE,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    config = transformers.CanaryConfig(encoder_config=encoder, decoder_config=decoder, vocab_size=SIZE)
    model = transformers.CanaryForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1
            weight.normal_(float("norm" in name and name.endswith("weight")), scale)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return model


@pytest.fixture
def folder(tmp_path: Path, tokenizer_json: str) -> Path:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json)
    transformers.ParakeetFeatureExtractor(feature_size=16).save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_transformers_folder_gives_transformers_outputs(folder: Path) -> None:
    theirs = build()
    theirs.save_pretrained(folder)
    ours = aronnax.load(folder, device="cpu")
    assert isinstance(ours, CanaryModel)
    signals = [torch.from_numpy(samples) for samples, _ in noises([2.0, 1.3])]
    extractor = transformers.ParakeetFeatureExtractor(feature_size=16)
    inputs = extractor([signal.numpy() for signal in signals], sampling_rate=16000, return_tensors="pt")
    tokens = torch.randint(3, SIZE, (2, 11))
    expected = theirs(
        input_features=inputs["input_features"],
        attention_mask=inputs["attention_mask"],
        decoder_input_ids=tokens,
    ).logits.log_softmax(-1)
    batch = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    encoded = ours.encode(batch, torch.tensor([len(signal) for signal in signals]))
    found = ours.forward_tokens(encoded.states, encoded.lengths, tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_text_and_prompts_survive_the_tokenizer(folder: Path) -> None:
    build().save_pretrained(folder)
    model = aronnax.load(folder, device="cpu")
    assert isinstance(model, CanaryModel)
    assert model.languages == ("en", "de")
    found = model.encode_prompt({"source_lang": "en", "target_lang": "de"}, "zwei zwerg")
    assert [piece for piece in model.text.pieces(found.prompt) if piece.startswith("<|")][:2] == [
        "<|startofcontext|>",
        "<|startoftranscript|>",
    ]
    assert model.text.decode(found.answer) == "zwei zwerg"


def test_what_is_not_supported_is_named(folder: Path) -> None:
    build().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["decoder_config"]["num_key_value_heads"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"decoder_config\.num_key_value_heads=1"):
        aronnax.load(folder)
