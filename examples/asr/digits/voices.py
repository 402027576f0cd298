"""The voices of the digit recipe: FSDD's speakers, their warped doubles, and espeak-ng's.

Every voice is a list of (audio [S] float16 at the corpus rate, text) clips; a text is one or more digit words.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from aronnax.collections.common.audio.speak import EspeakSynthesizer
from aronnax.collections.common.audio.warp import warp_voices

RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ENGLISH = (
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
    "en-029",
)
# English digits as a speaker of each language may say them, spelled for that language's voice.
ACCENTS = {
    "de": "siro wann tu ssri vor faiw siks ßewen äit nain",
    "fr": "ziro ouane tou sri fore faille-ve sixe sévène éite naïne",
    "fr-be": "zéro oueune tou trie for faïve sixe sèvenne ètte naïnne",
    "nl": "zirou wan toe srie foor faif siks seven eet nain",
    "es": "siro uan tu zri for faif siks seven eit nain",
    "it": "ziro uan tu tri for faiv sics seven eit nain",
    "pt-br": "ziro uan tu tri for faiv sics séven eit nain",
    "el": "ζίρο ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
    "pl": "ziro łan tu fri for fajw siks sewen ejt najn",
    "ru": "зиро уан ту сри фор файв сикс сэвэн эйт найн",
    "sv": "siro oann to tri får fajv siks seven ejt najn",
    "da": "siro wan tu tri for fajv siks seven ejt najn",
    "tr": "ziro uan tu tri for fayv siks sevın eyt nayn",
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "id": "ziro wan tu tri for faif siks seven eit nain",
    "fi": "ziro van tuu srii foor faiv siks seven eit nain",
    "cs": "ziro uan tu tri for fajv siks sevn ejt najn",
    "hu": "ziro van tú szri for fájv sziksz szeven éjt nájn",
}  # fmt: skip
# Variants that sing, whisper without vowels or sound like machines teach nothing about people.
UNUSABLE = {"Demonic", "UniRobot", "anikaRobot", "whisper", "whisperf", "fast", "Tweaky", "kaukovalta"}


@dataclass
class Voice:
    """One speaker, real or made: its clips and how it is called."""

    name: str
    clips: Sequence[tuple[np.ndarray, str]]


def load_fsdd(
    folder: Path, splits: Iterable[str] = ("train", "test")
) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Clips of each speaker, from FSDD's manifest."""
    speakers: dict[str, list[tuple[np.ndarray, str]]] = {}
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] in splits:
            audio, rate = soundfile.read(folder / entry["audio_filepath"], dtype="float32")
            assert rate == RATE, entry["audio_filepath"]
            speakers.setdefault(entry["speaker"], []).append((audio, entry["text"]))
    return speakers


def real_voices(
    speakers: dict[str, list[tuple[np.ndarray, str]]], doubles: int, seed: int, cache: Path | None = None
) -> list[Voice]:
    """`doubles` voices made of each speaker; the same for a speaker whoever the others are."""
    voices = []
    for name, clips in speakers.items():

        def make(name: str = name, clips: list[tuple[np.ndarray, str]] = clips) -> list[Voice]:
            return warped_doubles(
                name, clips, doubles, torch.Generator().manual_seed(seed + sum(name.encode()))
            )

        voices += _cached(cache, f"{name}-{len(clips)}-{doubles}-{seed}", make)
    return voices


def synthesised_voices(count: int, seed: int, cache: Path | None = None) -> list[Voice]:
    """`count` espeak-ng voices, as they are and warped."""

    def make() -> list[Voice]:
        voices = synthesised(count, seed)
        return voices + rewarped(voices, torch.Generator().manual_seed(seed))

    return _cached(cache, f"espeak-{count}-{seed}", make)


def _cached(folder: Path | None, name: str, make: Callable[[], list[Voice]]) -> list[Voice]:
    """Voices from `folder`, where an earlier training left them, or made and left there."""
    if folder is None:
        return make()
    file = folder / f"{name}.npz"
    if not file.exists():
        voices = make()
        clips = [(voice.name, audio, text) for voice in voices for audio, text in voice.clips]
        folder.mkdir(parents=True, exist_ok=True)
        with open(f"{file}.{os.getpid()}", "wb") as handle:
            np.savez(
                handle,
                names=np.array([name for name, _, _ in clips]),
                texts=np.array([text for _, _, text in clips]),
                ends=np.cumsum([len(audio) for _, audio, _ in clips]),
                audio=np.concatenate([audio for _, audio, _ in clips], dtype=np.float16),
            )
        Path(handle.name).replace(file)
    held = np.load(file)
    clips_of: dict[str, list[tuple[np.ndarray, str]]] = {}
    audios = np.split(held["audio"], held["ends"][:-1])
    for name, text, audio in zip(held["names"].tolist(), held["texts"].tolist(), audios):
        clips_of.setdefault(name, []).append((audio, text))
    return [Voice(name, clips) for name, clips in clips_of.items()]


def warped_doubles(
    name: str,
    clips: list[tuple[np.ndarray, str]],
    count: int,
    generator: torch.Generator,
) -> list[Voice]:
    """`count` voices out of one: each with its own pitch, tract and tempo, every clip a little off them.

    The first is the speaker's own voice, but for that little.
    """
    doubles = []
    for index in range(count):
        spread = torch.tensor([0.16, 0.12, 0.2]) * torch.randn(3, generator=generator)
        if index == 0:
            spread = torch.zeros(3)
        jitter = torch.tensor([0.03, 0.02, 0.08]) * torch.randn(len(clips), 3, generator=generator)
        limits = torch.tensor([0.45, 0.3, 0.5])
        factors = (spread + jitter).clamp(-limits, limits).exp()
        audios = warp_voices(
            [audio for audio, _ in clips],
            RATE,
            pitch=factors[:, 0] * factors[:, 1] ** 0.5,
            formant=factors[:, 1],
            tempo=factors[:, 2],
        )
        texts = [text for _, text in clips]
        doubles.append(Voice(f"{name}/{index}", [(a.astype(np.float16), t) for a, t in zip(audios, texts)]))
    return doubles


def synthesised(count: int, seed: int) -> list[Voice]:
    """`count` espeak-ng voices saying each digit, and a few strings in one breath."""
    chance, espeak = random.Random(seed), EspeakSynthesizer()
    variants = [v for v in espeak.variants() if v not in UNUSABLE and not v.startswith("robosoft")]
    voices = []
    for index in range(count):
        foreign = chance.random() < 0.4
        language = chance.choice(sorted(ACCENTS) if foreign else ENGLISH)
        spelling = dict(zip(WORDS, ACCENTS[language].split() if foreign else WORDS))
        voice = f"{language}+{chance.choice(variants)}"
        pitch, spread, rate = chance.randint(10, 80), chance.randint(15, 90), chance.randint(110, 230)
        texts = [*WORDS, *(" ".join(chance.choices(WORDS, k=chance.randint(2, 4))) for _ in range(4))]
        clips = []
        for text in texts:
            audio, source_rate = espeak.speak(
                " ".join(spelling[word] for word in text.split()),
                voice=voice,
                rate=min(450, max(80, rate + chance.randint(-20, 20))),
                pitch=min(99, max(0, pitch + chance.randint(-8, 8))),
                range=spread,
            )
            audio = trim(soxr.resample(audio, source_rate, RATE))
            if len(audio) > RATE // 20:
                clips.append((audio, text))
        voices.append(Voice(f"{index} {voice}", clips))
    return voices


def rewarped(voices: list[Voice], generator: torch.Generator) -> list[Voice]:
    """The same voices, each with another vocal tract and pitch, in half precision."""
    clips = [clip for voice in voices for clip in voice.clips]
    owner = torch.tensor([i for i, voice in enumerate(voices) for _ in voice.clips])
    factors = (torch.tensor([0.1, 0.08, 0.05]) * torch.randn(len(voices), 3, generator=generator)).exp()[
        owner
    ]
    audios = warp_voices(
        [audio for audio, _ in clips], RATE, pitch=factors[:, 0], formant=factors[:, 1], tempo=factors[:, 2]
    )
    made: list[list[tuple[np.ndarray, str]]] = [[] for _ in voices]
    for index, audio, (_, text) in zip(owner.tolist(), audios, clips):
        made[index].append((audio.astype(np.float16), text))
    return [Voice(f"{voice.name} warped", own) for voice, own in zip(voices, made)]


def trim(audio: np.ndarray, threshold: float = 0.02) -> np.ndarray:
    """The audio [S] without the silence at its ends (below `threshold` of its peak), 10 ms kept."""
    loud = np.flatnonzero(np.abs(audio) > threshold * max(1e-6, float(np.abs(audio).max())))
    if not len(loud):
        return audio[:0]
    margin = RATE // 100
    return audio[max(0, loud[0] - margin) : loud[-1] + margin]
