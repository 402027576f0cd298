"""VoiceTextBlender's published sizes, and its one stage of joint training in miniature."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from aronnax.collections.llm.backbone import BackboneConfig
from aronnax.collections.speechlm.training import load_config
from aronnax.collections.speechlm.voicetextblender.model import VoiceTextBlender, VoiceTextBlenderConfig

GEMMA_2B = BackboneConfig(
    "gemma",
    {
        "hidden_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 16384,
        "vocab_size": 256000,
    },
)


@pytest.fixture(scope="module")
def published() -> VoiceTextBlender:
    with torch.device("meta"):
        return VoiceTextBlender(VoiceTextBlenderConfig(GEMMA_2B))


def millions(model: VoiceTextBlender, part: str) -> float:
    return sum(p.numel() for name, p in model.named_parameters() if part in name) / 1e6


def test_the_published_model_has_the_published_sizes(published: VoiceTextBlender) -> None:
    """The paper says 609 M, 52 M and 36 M.

    Its language model has one projection for query, key and value and one for gate and up, with one A each;
    transformers has five, so three matrices A of 32 x 2048 a layer are more.
    """
    assert millions(published, "perception.encoder.") == pytest.approx(609.3, rel=0.005)
    assert millions(published, "perception.modality_adapter.") == pytest.approx(51.5, rel=0.005)
    apart = 18 * 3 * 32 * 2048 / 1e6
    assert millions(published, "lora_") - apart == pytest.approx(35.7, rel=0.005)


def test_a_frame_of_the_published_model_is_80_ms(published: VoiceTextBlender) -> None:
    assert published.samples_per_frame / published.sample_rate == pytest.approx(0.08)


def test_only_lora_and_the_ears_learn(published: VoiceTextBlender) -> None:
    learning = {name for name, parameter in published.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in learning if name.startswith("llm."))
    assert any(name.startswith("perception.encoder.") for name in learning)


@pytest.mark.parametrize("name", ["voicetextblender", "voicetextblender_small"])
def test_the_examples_are_valid(name: str) -> None:
    config = load_config(f"examples/speechlm/{name}.yaml")
    assert config.model["type"] == "voicetextblender"
    assert {one: stream.weight for one, stream in config.data.streams.items()} == {
        "audio": 0.85,
        "text": 0.15,
    }
