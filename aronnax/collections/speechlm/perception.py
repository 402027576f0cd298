"""The ears of a language model: log-mel features, a speech encoder, a modality adapter, a projection.

State names are those of NeMo's `AudioPerceptionModule`. Shapes: B recordings, S samples, T frames, E width of the
encoder, D width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aronnax.collections.asr.encoder import EncoderOutput, FastConformer, FastConformerConfig
from aronnax.collections.common.audio.augment import SpecAugment, SpecAugmentConfig
from aronnax.collections.common.audio.features import LogMel, LogMelConfig
from aronnax.core.errors import ConfigError


def _published_adapter() -> FastConformerConfig:
    return FastConformerConfig(n_layers=2, d_model=512, n_heads=8, subsampling_factor=1)


@dataclass(frozen=True)
class AdapterConfig:
    """What stands between the encoder and the projection to the language model's width."""

    kind: Literal["identity", "stack", "mlp", "conformer"] = "identity"
    """`identity` hands on frames as they are, `stack` joins several into one, `mlp` joins them and puts two layers
    on top, `conformer` is a small FastConformer with a subsampling of its own."""
    stacking: int = 1
    """stack, mlp: encoder frames that are joined into one."""
    hidden: int = 1024
    """mlp: width between its layers, and of its output."""
    conformer: FastConformerConfig = field(default_factory=_published_adapter)
    """conformer: its layers; `feat_in` follows the encoder's width."""

    def __post_init__(self) -> None:
        if self.stacking < 1 or self.hidden < 1:
            raise ConfigError(f"adapter.stacking {self.stacking} and hidden {self.hidden} must be at least 1")
        if self.stacking > 1 and self.kind not in ("stack", "mlp"):
            raise ConfigError(
                f"adapter.stacking is {self.stacking}, which belongs to the kinds stack and mlp, not to {self.kind}; "
                "a conformer has conformer.subsampling_factor"
            )

    @property
    def subsampling_factor(self) -> int:
        """Encoder frames to one frame of the language model."""
        return self.conformer.subsampling_factor if self.kind == "conformer" else self.stacking


@dataclass(frozen=True)
class PerceptionConfig:
    """Front end, encoder and adapter; the output width is that of the language model."""

    preprocessor: LogMelConfig = field(default_factory=LogMelConfig)
    """The log-mel front end."""
    encoder: FastConformerConfig = field(default_factory=FastConformerConfig)
    """The speech encoder; its `feat_in` is the front end's number of bands."""
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """Masks over the features in training."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What joins the encoder to the language model."""

    def __post_init__(self) -> None:
        if self.encoder.feat_in != self.preprocessor.n_mels:
            raise ConfigError(
                f"perception.encoder.feat_in is {self.encoder.feat_in}, but the preprocessor makes "
                f"{self.preprocessor.n_mels} mel bands"
            )
        conformer = replace(self.adapter.conformer, feat_in=self.encoder.d_model)
        object.__setattr__(self, "adapter", replace(self.adapter, conformer=conformer))


class Identity(nn.Module):
    """The encoder's frames as they are; no parameters."""

    def __init__(self, width: int) -> None:
        """For frames of `width` E."""
        super().__init__()
        self.width = width

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, E] -> [B, T, E]."""
        return states, lengths


class Stack(nn.Module):
    """Every `factor` frames in a row become one, side by side; the last is filled up with zeros."""

    def __init__(self, width: int, factor: int) -> None:
        """For frames of `width` E, of which `factor` become one."""
        super().__init__()
        self.width, self.factor = width * factor, factor

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, E] -> [B, ceil(T / factor), E * factor]."""
        states = F.pad(states, (0, 0, 0, -states.shape[1] % self.factor))
        joined = states.unflatten(1, (-1, self.factor)).flatten(2)
        return joined, (lengths + self.factor - 1).div(self.factor, rounding_mode="floor")


class Connector(nn.Module):
    """Frames joined as in `Stack`, then two layers with a GELU between them."""

    def __init__(self, width: int, factor: int, hidden: int) -> None:
        """For frames of `width` E, of which `factor` become one of width `hidden`."""
        super().__init__()
        self.stack = Stack(width, factor)
        self.width = hidden
        self.linear1 = nn.Linear(self.stack.width, hidden)
        self.linear2 = nn.Linear(hidden, hidden)

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, E] -> [B, ceil(T / factor), hidden]."""
        joined, lengths = self.stack(states, lengths)
        return self.linear2(F.gelu(self.linear1(joined))), lengths


class ConformerAdapter(FastConformer):
    """A small FastConformer over the encoder's frames."""

    @property
    def width(self) -> int:
        """Width of its frames."""
        return self.config.d_model

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[B, T, E] -> [B, ceil(T / factor), its width]."""
        output = super().forward(states, lengths)
        return output.states, output.lengths


def make_adapter(config: AdapterConfig, width: int) -> Identity | Stack | Connector | ConformerAdapter:
    """The adapter of a configuration for frames of `width`."""
    if config.kind == "conformer":
        return ConformerAdapter(config.conformer)
    if config.kind == "mlp":
        return Connector(width, config.stacking, config.hidden)
    return Stack(width, config.stacking) if config.kind == "stack" else Identity(width)


class Perception(nn.Module):
    """Recordings to frames that stand among the embeddings of words; `Perception(config, D)`.

    SpecAugment and dither act in training mode only.
    """

    def __init__(self, config: PerceptionConfig, width: int) -> None:
        """Fresh, for a language model of `width` D."""
        super().__init__()
        self.config = config
        self.preprocessor = LogMel(config.preprocessor)
        self.spec_augmentation = SpecAugment(config.spec_augment)
        self.encoder = FastConformer(config.encoder)
        self.modality_adapter = make_adapter(config.adapter, config.encoder.d_model)
        self.proj = nn.Linear(self.modality_adapter.width, width)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the signals it takes."""
        return self.config.preprocessor.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Samples from one of its frames to the next."""
        config = self.config
        factor = config.encoder.subsampling_factor * config.adapter.subsampling_factor
        return config.preprocessor.hop * factor

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one of its frames to the next: what a token of text counts as among recordings."""
        return self.samples_per_frame / self.sample_rate

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Signal [B, S] at `sample_rate` with lengths [B] in samples -> frames [B, T, D] and their lengths [B].

        What stands in the padding of the frames means nothing.
        """
        return self.adapt(*self.encode(signal, lengths)[:2])

    def encode(self, signal: Tensor, lengths: Tensor) -> EncoderOutput:
        """Signal [B, S] with lengths [B] in samples -> encoder states [B, T, E]."""
        features, lengths = self.preprocessor(signal, lengths)
        features = self.spec_augmentation(features, lengths) if self.training else features
        output: EncoderOutput = self.encoder(features.to(self.proj.weight.dtype), lengths)
        return output

    def adapt(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T, E] -> frames [B, T', D] for the language model."""
        states, lengths = self.modality_adapter(states, lengths)
        return self.proj(states), lengths

    def frames(self, samples: int) -> int:
        """How many frames a recording of so many samples becomes."""
        features = self.preprocessor.output_length(torch.tensor(samples))
        length = int(self.encoder.output_length(int(features)))
        adapter = self.modality_adapter
        if isinstance(adapter, ConformerAdapter):
            return int(adapter.output_length(length))
        return -(-length // self.config.adapter.stacking)
