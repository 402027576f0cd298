"""Make the recordings that are bundled for the demo, with espeak-ng: `python recordings.py FOLDER`.

Each is spoken, placed in a room or on a telephone line, and written in the format its name says; manifest.jsonl
holds the texts. One more has two voices that take turns; conversation.jsonl says who says what and when.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from aronnax.collections.common.audio import warp
from aronnax.collections.common.audio.speak import EspeakSynthesizer


@dataclass(frozen=True)
class Recording:
    """One file: what is said by whom, and over what."""

    name: str
    text: str
    voice: str
    sample_rate: int
    rate: int = 140
    pitch: int = 45
    telephone: bool = False
    room: bool = False


RECORDINGS = (
    Recording("counting.flac", "zero one two three four five six seven eight nine", "en-us+m3", 16000),
    Recording("pi.flac", "three one four one five nine two six five", "en-gb-x-rp+m1", 22050, pitch=35),
    Recording("telephone.flac", "five five five zero one nine nine", "en-us+f2", 8000, telephone=True),
    Recording("room.ogg", "seven two eight four", "en-gb-scotland+m7", 16000, rate=130, room=True),
    Recording("year.ogg", "one nine six nine", "en-029+Andy", 44100, rate=150, pitch=55),
    Recording("quick.flac", "eight six seven five three zero nine", "en-us-nyc+m2", 16000, rate=190),
)

# Two voices, each with its rate and pitch, and who says what.
CONVERSATION, SPEAKERS = "conversation.ogg", (("en-us+m3", 140, 45), ("en-gb-scotland+f4", 145, 75))
LINES = (
    (1, "four two seven nine"),
    (2, "one six three"),
    (1, "five eight zero two"),
    (2, "nine four seven one"),
)
PAUSE = 0.3


def make(recording: Recording, generator: torch.Generator) -> np.ndarray:
    """Audio [S] at the recording's rate: digits with short pauses, half a second of quiet around them."""
    text = ", ".join(recording.text.split())
    audio, rate = EspeakSynthesizer().speak(
        text, voice=recording.voice, rate=recording.rate, pitch=recording.pitch
    )
    audio = np.pad(soxr.resample(audio, rate, recording.sample_rate), recording.sample_rate // 3)
    signal = torch.from_numpy(audio)[None]
    lengths = torch.tensor([signal.shape[1]])
    if recording.room:
        signal = warp.reverberate(signal, warp.simulated_rooms(1, recording.sample_rate, 0.4, generator))
    if recording.telephone:
        signal = warp.pass_band(signal, recording.sample_rate, torch.tensor([300.0]), torch.tensor([3400.0]))
    noise = torch.randn(signal.shape, generator=generator)
    signal = warp.add_noise(signal, lengths, noise, torch.tensor([30.0]))
    return (0.5 * signal / signal.abs().max())[0].numpy()


def converse(generator: torch.Generator) -> tuple[np.ndarray, list[dict[str, object]]]:
    """The conversation [S] at 16 kHz, each voice equally loud, and its turns."""
    rate, pieces, turns = 16000, [np.zeros(8000, np.float32)], []
    for number, text in LINES:
        voice, speed, pitch = SPEAKERS[number - 1]
        audio, source = EspeakSynthesizer().speak(
            ", ".join(text.split()), voice=voice, rate=speed, pitch=pitch
        )
        audio = soxr.resample(audio, source, rate)
        start = sum(map(len, pieces)) / rate
        end = start + len(audio) / rate
        turns.append({"speaker": number, "start": round(start, 2), "end": round(end, 2), "text": text})
        pieces += [audio / audio.std(), np.zeros(round(PAUSE * rate), np.float32)]
    signal = torch.from_numpy(np.concatenate(pieces))
    signal = signal + 10 ** (-30 / 20) * torch.randn(signal.shape, generator=generator)
    return (0.5 * signal / signal.abs().max()).numpy(), turns


def main(folder: Path) -> None:
    """Write all recordings and their manifests."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, lines = torch.Generator().manual_seed(7), []
    for recording in RECORDINGS:
        audio = make(recording, generator)
        soundfile.write(folder / recording.name, audio, recording.sample_rate)
        seconds = round(len(audio) / recording.sample_rate, 3)
        entry = {"audio_filepath": recording.name, "duration": seconds, "text": recording.text}
        lines.append(json.dumps({**entry, "lang": "en"}))
        print(f"{recording.name}: {seconds} s, {(folder / recording.name).stat().st_size} bytes")
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    write_conversation(folder)


def write_conversation(folder: Path) -> None:
    """Write the recording with two voices and its manifest."""
    audio, turns = converse(torch.Generator().manual_seed(8))
    soundfile.write(folder / CONVERSATION, audio, 16000)
    entry = {"audio_filepath": CONVERSATION, "duration": round(len(audio) / 16000, 3), "turns": turns}
    (folder / "conversation.jsonl").write_text(json.dumps(entry) + "\n")
    print(f"{CONVERSATION}: {entry['duration']} s, {(folder / CONVERSATION).stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
