"""VoiceTextBlender (Peng et al. 2024, arXiv:2410.17485): one stage of joint training on speech and text.

The wiring is SALM's: frames of recordings stand among the words, anywhere in a chat of any number of turns. Its own
are the set-up (a Canary encoder that learns too, an adapter of two layers that keeps all its frames, LoRA on every
projection of a frozen language model) and the data: audio and text-only conversations by randomised round robin, and
questions of which a part is spoken (`conversation/makers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from aronnax.collections.asr.encoder import FastConformerConfig
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.llm.lora import LoRA
from aronnax.collections.speechlm.model import SpeechLMConfig
from aronnax.collections.speechlm.perception import AdapterConfig, PerceptionConfig
from aronnax.collections.speechlm.salm.model import SALM


def published_perception() -> PerceptionConfig:
    """Canary-1B's encoder (24 x 1024) and an adapter of two Conformer layers without subsampling: 80 ms a frame."""
    return PerceptionConfig(
        preprocessor=LogMelConfig(n_mels=128),
        encoder=FastConformerConfig(feat_in=128, n_layers=24, d_model=1024, xscaling=False),
        adapter=AdapterConfig(
            kind="conformer",
            conformer=FastConformerConfig(feat_in=1024, n_layers=2, d_model=1024, subsampling_factor=1),
        ),
    )


@dataclass(frozen=True)
class VoiceTextBlenderConfig(SpeechLMConfig):
    """A language model and its ears as in the paper, where its backbone is Gemma 2.5 B."""

    perception: PerceptionConfig = field(default_factory=published_perception)
    """The ears; all of them learn."""
    lora: LoRA | None = field(default_factory=lambda: LoRA(rank=32, alpha=32.0))
    """Low-rank layers on all projections of the language model, whose own weights rest."""
    prompt_format: str = "gemma"
    """How conversations are written down."""


class VoiceTextBlender(SALM):
    """SALM's wiring with VoiceTextBlender's configuration."""

    model_type: ClassVar[str] = "voicetextblender"
    Config: ClassVar[type] = VoiceTextBlenderConfig
