"""Endless batches of digit strings: clips of one voice, joined with silences and heard over some channel.

Legend: `B` batch, `S` samples, `U` tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from voices import RATE, Voice

from aronnax.collections.asr.batch import SpeechBatch
from aronnax.collections.common.audio import warp
from aronnax.collections.common.text import Tokenizer

ROOM_SECONDS = 0.5
LENGTH_WEIGHTS = (0.24, 0.18, 0.17, 0.14, 0.11, 0.08, 0.08)  # of strings of 1, 2, ... 7 digits


@dataclass
class Surroundings:
    """Room responses [N, R] and noises [S] to choose from."""

    rooms: Tensor
    noises: list[np.ndarray]

    @classmethod
    def load(cls, folder: Path | None, generator: torch.Generator) -> Surroundings:
        """Simulated rooms and, where the folder of real responses and noises is given, those as well."""
        rooms = [*warp.simulated_rooms(150, RATE, ROOM_SECONDS, generator)]
        white = torch.randn(RATE * 20, generator=generator)
        pink = torch.fft.irfft(torch.fft.rfft(white) / torch.arange(1, RATE * 10 + 2).sqrt())
        noises = [white.numpy(), pink.numpy(), pink.cumsum(0).numpy() - pink.cumsum(0).mean().item()]
        for line in (folder / "manifest.jsonl").read_text().splitlines() if folder else []:
            entry = json.loads(line)
            audio, rate = soundfile.read(folder / entry["audio_filepath"], dtype="float32", always_2d=True)
            for channel in audio.T[:8]:
                sound = soxr.resample(channel, rate, RATE)
                if entry["kind"] == "noise":
                    noises.append(np.tile(sound, 1 + 10 * RATE // len(sound)))
                    break
                rooms.extend([warp.trim_room(sound, RATE, ROOM_SECONDS)] * 4)
        return cls(torch.stack(rooms), noises)


class StringMaker:
    """Draws batches from groups of voices: a group by its weight, then a voice, then its clips."""

    def __init__(
        self,
        groups: Sequence[tuple[float, list[Voice]]],
        around: Surroundings,
        tokenizer: Tokenizer,
        seed: int,
        lengths: Sequence[float] = LENGTH_WEIGHTS,
    ) -> None:
        self.groups, self.around, self.tokenizer, self.lengths = groups, around, tokenizer, lengths
        self.longest = len(lengths)  # digits in a string; a training may begin with fewer
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the random choices anew."""
        self.chance = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def batches(self, size: int, pool: int = 4) -> Iterator[SpeechBatch]:
        """Batches of about `size` strings; `pool` batches' strings are sorted by length and cut into batches
        of equal audio, which halves the padding."""
        while True:
            rows = sorted((self.string() for _ in range(size * pool)), key=lambda row: len(row[0]))
            total, budget, cuts = 0.0, sum(len(audio) for audio, _ in rows) / pool, [0]
            for index, (audio, _) in enumerate(rows):
                total += len(audio)
                if total >= budget * len(cuts):
                    cuts.append(index + 1)
            cuts[-1] = len(rows)
            spans = [(a, b) for a, b in pairwise(cuts) if b > a]
            self.chance.shuffle(spans)
            for start, stop in spans:
                yield self.collate(rows[start:stop])

    def string(self) -> tuple[np.ndarray, str]:
        """Audio [S] and text of one string of 1 to 7 digits."""
        chance = self.chance
        weights = [weight for weight, _ in self.groups]
        voices = chance.choices([voices for _, voices in self.groups], weights)[0]
        voice = chance.choice(voices)
        wanted = 1 + chance.choices(range(self.longest), self.lengths[: self.longest])[0]
        close, recorded = chance.random() < 0.3, self.recorder()
        pieces, words = [_silence(0 if chance.random() < 0.35 else chance.expovariate(8))], []
        while len(words) < wanted:
            audio, text = chance.choice(voice.clips)
            if words and len(words) + text.count(" ") + 1 > wanted:
                audio, text = next(clip for clip in _shuffled(voice.clips, chance) if " " not in clip[1])
            if chance.random() < 0.4:
                audio = cut_edges(audio, chance.uniform(8, 30))
            if words:
                pieces.append(_silence(chance.uniform(0, 0.03) if close else chance.expovariate(8)))
            pieces.append(recorded(audio) * 10 ** (chance.gauss(0, 2) / 20))
            words.extend(text.split())
        pieces.append(_silence(0 if chance.random() < 0.35 else chance.expovariate(8)))
        audio = np.concatenate(pieces, dtype=np.float32)
        if len(audio) < RATE and chance.random() < 0.5:
            # As `transcribe` does with whatever is shorter than a second.
            audio = np.pad(audio, ((RATE - len(audio)) // 2, (RATE - len(audio) + 1) // 2))
        return audio, " ".join(words)

    def recorder(self) -> Callable[[np.ndarray], np.ndarray]:
        """How this string's clips were recorded before they were joined: clean, or with noise within the clips
        alone, few quantisation levels, a constant offset."""
        chance = self.chance
        if chance.random() < 0.5:
            return lambda audio: audio
        noise, decibels = self._noise_source(), chance.uniform(8, 40)
        offset = chance.gauss(0, 0.04) if chance.random() < 0.4 else 0.0
        levels = 2 ** chance.uniform(4, 7) if chance.random() < 0.5 else None

        def record(audio: np.ndarray) -> np.ndarray:
            peak = max(1e-5, float(np.abs(audio).max()))
            audio = audio.astype(np.float32) / peak
            start = chance.randrange(max(1, len(noise) - len(audio)))
            hiss = np.resize(noise[start : start + len(audio)], len(audio))
            ratio = np.sqrt(np.square(audio).mean() / max(1e-9, float(np.square(hiss).mean())))
            audio = audio + hiss * ratio * 10 ** (-decibels / 20) + offset
            return peak * (np.round(audio * levels) / levels if levels else audio)

        return record

    def collate(self, rows: list[tuple[np.ndarray, str]]) -> SpeechBatch:
        """One padded batch of the rows, each through a channel of its own."""
        lengths = torch.tensor([len(audio) for audio, _ in rows])
        signal = torch.zeros(len(rows), int(lengths.max()))
        for index, (audio, _) in enumerate(rows):
            signal[index, : len(audio)] = torch.from_numpy(audio)
        ids = [torch.tensor(self.tokenizer.encode(text), dtype=torch.int64) for _, text in rows]
        return SpeechBatch(
            signal=self.heard(signal, lengths),
            signal_lengths=lengths,
            tokens=torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
            token_lengths=torch.tensor([len(row) for row in ids]),
            texts=[text for _, text in rows],
            ids=[""] * len(rows),
        )

    def heard(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """The signal [B, S] through random rooms, equalisers, lines, noises and levels."""
        batch, size = signal.shape
        signal = signal / signal.abs().amax(1, keepdim=True).clamp_min(1e-5)
        if len(rows := self._some(batch, 0.5)):
            signal[rows] = warp.expand(signal[rows], RATE, self._between(len(rows), -0.3, 0.8))
        if len(rows := self._some(batch, 0.25)):
            rooms = self.around.rooms[
                torch.randint(len(self.around.rooms), (len(rows),), generator=self.generator)
            ]
            signal[rows] = warp.reverberate(signal[rows], rooms)
        if len(rows := self._some(batch, 0.7)):
            tilt = 4 * self._normal(len(rows), 1) * torch.linspace(-1, 1, 12)
            signal[rows] = warp.equalise(signal[rows], tilt + 2.5 * self._normal(len(rows), 12))
        if len(rows := self._some(batch, 0.2)):
            low, high = self._between(len(rows), 60, 350), self._between(len(rows), 2900, 3900)
            signal[rows] = warp.pass_band(signal[rows], RATE, low, high)
        if len(rows := self._some(batch, 0.06)):
            signal[rows] = warp.overdrive(signal[rows], self._between(len(rows), 0.15, 0.7))
        if len(rows := self._some(batch, 0.5)):
            noise = torch.stack([self._noise(size) for _ in rows])
            decibels = 8 + 40 * self._between(len(rows), 0, 1) ** 0.7
            signal[rows] = warp.add_noise(signal[rows], lengths[rows], noise, decibels)
        peak = signal.abs().amax(1, keepdim=True).clamp_min(1e-5)
        signal = signal / peak * 10 ** (self._between(batch, -32, 0)[:, None] / 20)
        if len(rows := self._some(batch, 0.08)):
            signal[rows] = warp.mu_law(signal[rows])
        return signal

    def _noise_source(self) -> np.ndarray:
        # The three made noises are as likely as all the recorded ones.
        noises = self.around.noises
        return self.chance.choice(noises[:3] if self.chance.random() < 0.5 else noises)

    def _noise(self, size: int) -> Tensor:
        noise = self._noise_source()
        start = self.chance.randrange(max(1, len(noise) - size))
        return torch.from_numpy(np.resize(noise[start : start + size], size).astype(np.float32))

    def _some(self, batch: int, share: float) -> Tensor:
        return torch.nonzero(torch.rand(batch, generator=self.generator) < share)[:, 0]

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _between(self, count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self.generator)


def cut_edges(audio: np.ndarray, decibels: float) -> np.ndarray:
    """The audio [S] without the 10 ms frames at its ends that lie `decibels` below its loudest one.

    A recording cut by its level loses the weak fricatives of "six" or "five" just so.
    """
    frame = RATE // 100
    count = len(audio) // frame
    power = np.square(audio[: count * frame].reshape(count, frame), dtype=np.float32).mean(1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-decibels / 10))
    return audio[loud[0] * frame : (loud[-1] + 1) * frame] if len(loud) > 8 else audio


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(int(min(seconds, 0.8) * RATE), np.float32)


def _shuffled(clips: list[tuple[np.ndarray, str]], chance: random.Random) -> list[tuple[np.ndarray, str]]:
    return chance.sample(clips, len(clips))
