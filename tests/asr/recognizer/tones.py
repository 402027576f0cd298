"""A recogniser that hears tones: its words and their times are known exactly, whatever the length."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aronnax.collections.asr.ctc.decoding import ctc_greedy
from aronnax.collections.asr.ctc.model import CTCModelConfig
from aronnax.collections.asr.encoder import EncoderOutput, FastConformerConfig
from aronnax.collections.asr.recognizer import SpeechRecognizer
from aronnax.collections.common.audio.features import LogMelConfig
from aronnax.collections.common.text import WordPieceTokenizer

RATE = 4000
FRAME = 320
"""Samples of an encoder frame."""

WORDS = ("[UNK]", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class ToneModel(SpeechRecognizer):
    """Its encoder marks which of ten tones sounds in each frame, its decoder is greedy CTC.

    A frame also sees a little of its two neighbours, so that a window without context gives other numbers.
    """

    model_type = "tones"

    def __init__(self) -> None:
        encoder = FastConformerConfig(
            feat_in=16, n_layers=1, d_model=16, n_heads=2, subsampling_conv_channels=4, conv_kernel_size=3
        )
        front = LogMelConfig(sample_rate=RATE, n_mels=16, n_fft=128)
        super().__init__(CTCModelConfig(len(WORDS), front, encoder), WordPieceTokenizer(WORDS))
        steps = 2 * torch.pi * torch.arange(FRAME) / FRAME
        waves = torch.stack([k * steps for k in frequencies()])
        self.register_buffer("tones", torch.stack([waves.cos(), waves.sin()]), persistent=False)
        self.eval()

    @property
    def heads(self) -> tuple[str, ...]:
        return ("ctc",)

    def encode(self, signal: Tensor, lengths: Tensor, attention: Any = None) -> EncoderOutput:
        frames = -(-(lengths // (FRAME // 8)) // 8)
        total = int(frames.max())
        padded = torch.nn.functional.pad(signal, (0, max(total * FRAME - signal.shape[1], 0)))
        blocks = padded[:, : total * FRAME].reshape(len(signal), total, FRAME)
        power = sum((blocks @ wave.T) ** 2 for wave in self.tones)
        power = power / FRAME**2
        silent = torch.full_like(power[..., :1], 0.02)
        scores = torch.cat([torch.zeros_like(silent), power, silent], dim=-1)
        before = torch.nn.functional.pad(scores, (0, 0, 1, 0))[:, :-1]
        after = torch.nn.functional.pad(scores, (0, 0, 0, 1))[:, 1:]
        return EncoderOutput((scores + 0.05 * (before + after)) * 100, frames)

    def decode(
        self,
        states: Tensor,
        lengths: Tensor,
        *,
        head: str | None = None,
        confidence: str | None = "tsallis",
        carry: Any = None,
    ) -> tuple[list, Any]:
        return ctc_greedy(states.log_softmax(-1), lengths, confidence=confidence, carry=carry)


def frequencies() -> list[int]:
    """Whole periods in a frame of the ten tones."""
    return [20 + 6 * i for i in range(10)]


def spoken(plan: Sequence[tuple[int, int, int]], start: int, stop: int) -> np.ndarray:
    """Samples [start, stop), whole frames, of words said as (word, first frame, frames)."""
    signal = np.zeros(stop - start, np.float32)
    steps = 2 * np.pi * np.arange(FRAME) / FRAME
    for word, first, count in plan:
        tone = 0.8 * np.sin(frequencies()[word] * steps).astype(np.float32)
        for frame in range(first, first + count):
            begin = frame * FRAME - start
            if begin >= 0 and begin + FRAME <= len(signal):
                signal[begin : begin + FRAME] = tone
    return signal


def random_plan(frames: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Words of 2 to 4 frames with silences of 1 to 20 frames between them."""
    chance = np.random.default_rng(seed)
    plan, frame = [], 3
    while frame + 8 < frames:
        count = int(chance.integers(2, 5))
        plan.append((int(chance.integers(10)), frame, count))
        frame += count + int(chance.integers(1, 21))
    return plan


def expected_words(plan: Sequence[tuple[int, int, int]]) -> list[tuple[str, float, float]]:
    """What a perfect transcript of a plan holds."""
    return [
        (WORDS[word + 1], first * FRAME / RATE, (first + count) * FRAME / RATE) for word, first, count in plan
    ]


def write_wav(path: Path, plan: Sequence[tuple[int, int, int]], frames: int, tail: int = 0) -> Path:
    """The plan as a 16-bit file, written block by block; `tail` samples of silence follow the last frame."""
    block = 7500
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        at = 0
        for begin in range(0, frames, block):
            end = min(begin + block, frames)
            while at < len(plan) and plan[at][1] + plan[at][2] <= begin:
                at += 1
            inside = [word for word in plan[at : at + block] if word[1] < end]
            signal = spoken(inside, begin * FRAME, end * FRAME)
            file.writeframes((signal * 32767).astype("<i2").tobytes())
        file.writeframes(b"\0\0" * tail)
    return path
