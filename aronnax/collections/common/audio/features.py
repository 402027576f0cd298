"""Log-mel features, equal to NeMo's `AudioToMelSpectrogramPreprocessor`.

Shapes: `B` batch, `S` samples, `T` frames, `F` mel bands, `K = n_fft / 2 + 1` frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from aronnax.collections.common.audio.mel import WINDOW_NAMES, analysis_window, mel_filterbank
from aronnax.core.errors import ConfigError

# Spectra of at most so many frames are held at a time: an hours-long recording needs no more memory than
# its features, and a block fits the processor's cache.
_BLOCK_FRAMES = {"cpu": 2048, "cuda": 131072}


@dataclass(frozen=True)
class LogMelConfig:
    """Settings of the front end; the defaults are those of the FastConformer checkpoints."""

    sample_rate: int = 16000
    """Samples per second of the signal."""
    n_mels: int = 80
    """Mel bands F."""
    window_size: float = 0.025
    """Length of the analysis window in seconds."""
    window_stride: float = 0.01
    """Time between frames in seconds."""
    n_fft: int = 512
    """Length of the Fourier transform in samples, at least the window."""
    window: Literal["hann", "hamming", "blackman", "bartlett", "ones"] = "hann"
    """Shape of the analysis window."""
    normalize: Literal["per_feature", "all_features", "none"] = "per_feature"
    """Zero mean and unit deviation over a row's frames for each band, for all bands together, or neither."""
    dither: float = 1e-5
    """Deviation of the noise added to the signal in training mode; 0 adds none."""
    preemphasis: float = 0.97
    """Coefficient of the first-order high-pass filter; 0 leaves the signal alone."""
    pad_to: int = 0
    """T is padded with zero frames to a multiple of this; 0 pads nothing."""
    mag_power: float = 2.0
    """Power the magnitude spectrum is raised to."""
    log_zero_guard: Literal["add", "clamp"] = "add"
    """Whether the guard value is added to the energies before the logarithm or is their lower bound."""
    log_zero_guard_value: float = 2**-24
    """The guard value."""
    low_freq: float = 0.0
    """Lower edge of the first band in Hz."""
    high_freq: float | None = None
    """Upper edge of the last band in Hz; None is half the sample rate."""

    def __post_init__(self) -> None:
        for name, most in (("sample_rate", 10**6), ("n_mels", 1024), ("n_fft", 2**16)):
            if not 1 <= getattr(self, name) <= most:  # a stranger's configuration must not fill the memory
                raise ConfigError(f"{name}={getattr(self, name)} is outside 1..{most}")
        if self.window_samples < 1 or self.hop < 1:
            raise ConfigError(
                f"window_size={self.window_size} and window_stride={self.window_stride} must each be at least"
                f" one sample at sample_rate={self.sample_rate}"
            )
        if self.n_fft < self.window_samples:
            raise ConfigError(
                f"n_fft={self.n_fft} is shorter than the analysis window of {self.window_samples} samples;"
                " raise n_fft or lower window_size"
            )
        if self.window not in WINDOW_NAMES:
            raise ConfigError(f"window={self.window!r} is unknown; use one of {', '.join(WINDOW_NAMES)}")
        if self.normalize not in ("per_feature", "all_features", "none"):
            raise ConfigError(
                f"normalize={self.normalize!r} is unknown; use per_feature, all_features or none"
            )
        if self.log_zero_guard not in ("add", "clamp"):
            raise ConfigError(f"log_zero_guard={self.log_zero_guard!r} is unknown; use add or clamp")

    @property
    def window_samples(self) -> int:
        """Length of the analysis window in samples."""
        return int(self.window_size * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return int(self.window_stride * self.sample_rate)


class LogMel(nn.Module):
    """Turn a batch of waveforms into log-mel features [B, T, F] with T = floor(samples / hop).

    >>> features, lengths = LogMel(LogMelConfig()).eval()(torch.zeros(1, 16000), torch.tensor([16000]))
    >>> features.shape, lengths
    (torch.Size([1, 100, 80]), tensor([100]))
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.featurizer = Featurizer(config)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, T, F] in float32, zero where padded, and their lengths [B] in frames.

        `signal` [B, S] is in [-1, 1]; samples at or after `lengths` [B] are never looked at.
        """
        features = self.featurizer(signal, lengths)
        frames = self.output_length(lengths)
        valid = frame_mask(frames, features.shape[1])
        features = _normalise(features, frames, valid, self.config.normalize)
        extra = -features.shape[1] % self.config.pad_to if self.config.pad_to > 0 else 0
        return functional.pad(features, (0, 0, 0, extra)), frames

    def output_length(self, samples: Tensor) -> Tensor:
        """Return how many frames [B] so many samples [B] give."""
        return torch.div(samples, self.config.hop, rounding_mode="floor")


class Featurizer(nn.Module):
    """Log-mel energies before normalisation, from the stored window [W] and filterbank [1, F, K]."""

    window: Tensor
    fb: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        # Real values even when built on the meta device: not every checkpoint layout stores them.
        bank = mel_filterbank(
            config.sample_rate, config.n_fft, config.n_mels, config.low_freq, config.high_freq
        )
        self.register_buffer("window", analysis_window(config.window, config.window_samples))
        self.register_buffer("fb", torch.from_numpy(bank).unsqueeze(0))

    def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Return log-mel energies [B, T, F] of `signal` [B, S] whose rows hold `lengths` [B] samples."""
        with torch.autocast(signal.device.type, enabled=False):
            n_fft, hop = self.config.n_fft, self.config.hop
            batch, n_frames = signal.shape[0], signal.shape[1] // hop
            if batch * n_frames == 0:
                return torch.zeros(batch, n_frames, self.config.n_mels, device=signal.device)
            signal = self._prepare(signal.float(), lengths)
            block = max(1, _BLOCK_FRAMES.get(signal.device.type, 32768) // batch)
            blocks = [
                self._log_mel(signal[:, start * hop : (min(start + block, n_frames) - 1) * hop + n_fft])
                for start in range(0, n_frames, block)
            ]
            return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def _prepare(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Dither, pre-emphasise, silence what lies beyond each row, and centre the frames: [B, S + n_fft]."""
        if self.training and self.config.dither > 0:
            signal = signal + self.config.dither * torch.randn_like(signal)
        half = self.config.n_fft // 2
        padded = functional.pad(signal, (half + 1, half))
        emphasised = padded[:, 1:] - self.config.preemphasis * padded[:, :-1]
        places = torch.arange(emphasised.shape[1], device=signal.device)
        return emphasised.masked_fill(places >= (lengths + half).unsqueeze(1), 0.0)

    def _log_mel(self, signal: Tensor) -> Tensor:
        config = self.config
        spectrum = torch.view_as_real(
            torch.stft(
                signal,
                config.n_fft,
                hop_length=config.hop,
                win_length=config.window_samples,
                window=self.window.float(),
                center=False,
                return_complex=True,
            ).transpose(1, 2)
        )
        power = spectrum.square().sum(-1)
        if config.mag_power != 2.0:
            power = power.pow(config.mag_power / 2)
        energies = power @ self.fb[0].float().T
        if config.log_zero_guard == "add":
            return (energies + config.log_zero_guard_value).log()
        return energies.clamp(min=config.log_zero_guard_value).log()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Featurizer:
        """Follow the model to its device but stay in float32: rounded banks would change the features."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)
        return self


def frame_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """Return a mask [B, n_frames], true at the frames that belong to each row."""
    return torch.arange(n_frames, device=lengths.device) < lengths.unsqueeze(1)


def _normalise(features: Tensor, frames: Tensor, valid: Tensor, kind: str) -> Tensor:
    """Normalise [B, T, F] over each row's own frames with the unbiased deviation; padding becomes zero."""
    padding = ~valid.unsqueeze(2)
    features = features.masked_fill(padding, 0.0)
    if kind == "none":
        return features
    over = (1,) if kind == "per_feature" else (1, 2)
    count = frames.to(features.dtype).view(-1, 1, 1)
    if kind == "all_features":
        count = count * features.shape[2]
    mean = features.sum(over, keepdim=True) / count.clamp(min=1)
    centred = (features - mean).masked_fill(padding, 0.0)
    deviation = (centred.square().sum(over, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + 1e-5)
