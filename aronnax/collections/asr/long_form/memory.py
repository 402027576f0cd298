"""How much memory an encoder pass takes."""

from __future__ import annotations

from typing import Any


def pass_bytes(config: Any, seconds: float, bytes_per_number: int) -> int:
    """About how many bytes one row of so many seconds takes through front end and encoder at the peak.

    Grows linearly: attention holds a bounded block of scores at a time whatever the length.
    """
    preprocessor, encoder = config.preprocessor, config.encoder
    mel_frames = seconds / preprocessor.window_stride
    frames = mel_frames / encoder.subsampling_factor
    signal = 4 * 3 * seconds * preprocessor.sample_rate
    features = 4 * 3 * mel_frames * preprocessor.n_mels
    # The first convolution makes many channels of half the frames and bands; it works in bounded pieces.
    channels = min(mel_frames / 2 * preprocessor.n_mels / 2 * encoder.subsampling_conv_channels, 2**24)
    states = 3 * frames * encoder.d_model * (encoder.ff_expansion_factor + 1)
    scores = 3 * min(encoder.n_heads * frames * frames, 2**25)
    return int(signal + features + bytes_per_number * (channels + states + scores))
