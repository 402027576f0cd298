"""`aronnax demo`: the bundled models at work on bundled recordings, then a minute of fine-tuning."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import warnings
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from click import echo, style

from aronnax.cli.commands import Option
from aronnax.cli.terminal import table

if TYPE_CHECKING:
    from aronnax.collections.asr.recognizer import SpeechRecognizer
    from aronnax.collections.common.results import Transcript

RECORDINGS = Path(__file__).parents[1] / "bundled" / "recordings"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = ("plus", "minus", "times")
VOICES = ("en-us", "en", "en-us+m3", "en-us+f2", "en+m5", "en-gb-scotland", "en-us+f4", "en+f3")
# Voices of the sums that the fine-tuning is scored on; it never hears them in training.
UNHEARD = ("en-us+m7", "en+f5")


def demo(
    out: Annotated[Path, Option(help="Folder for demo.png and speakers.png.")] = Path(),
    steps: Annotated[int, Option(help="Optimizer steps of the fine-tuning; 0 leaves it out.")] = 150,
) -> None:
    """See it work: transcribe bundled recordings, tell two speakers apart, draw both, fine-tune for a minute."""
    import torch

    import aronnax
    from aronnax.collections.asr.recognizer import SpeechRecognizer

    # So small a model trains five times faster without the handing over between threads.
    torch.set_num_threads(1)
    model = aronnax.load("digits", device="cpu")
    assert isinstance(model, SpeechRecognizer)
    out.mkdir(parents=True, exist_ok=True)
    _transcribe(model, out / "demo.png")
    _tell_apart(model, out / "speakers.png")
    if steps:
        _fine_tune(steps)


def _entries(manifest: str) -> list[dict[str, Any]]:
    lines = (RECORDINGS / manifest).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _transcribe(model: SpeechRecognizer, picture: Path) -> None:
    from aronnax.collections.asr.picture import draw
    from aronnax.collections.common.audio.reading import read_audio

    entries = _entries("manifest.jsonl")
    paths = [RECORDINGS / entry["audio_filepath"] for entry in entries]
    transcripts = model.transcribe(paths)
    assert isinstance(transcripts, list)
    echo(style("\n1. The bundled model digits transcribes bundled recordings", bold=True))
    for entry, path, transcript in zip(entries, paths, transcripts):
        right = style("right", fg="green") if transcript.text == entry["text"] else f"said: {entry['text']}"
        said = style(transcript.text, bold=True)
        echo(f"\n{path.name} ({transcript.duration:.2f} s): {said}  {right}")
        rows = [
            (word.text, f"{word.start:.2f}", f"{word.end:.2f}", f"{word.confidence:.2f}")
            for word in transcript.words
        ]
        for line in table(("word", "start, s", "end, s", "confidence"), rows):
            echo(f"  {line}")
    longest = max(range(len(paths)), key=lambda row: len(transcripts[row].words))
    audio = read_audio(paths[longest], sample_rate=model.sample_rate)
    draw(model, audio.samples, transcripts[longest], picture, title=paths[longest].name)
    echo(f"\ndrew {paths[longest].name} with its words: {style(str(picture), bold=True)}")


def _tell_apart(model: SpeechRecognizer, picture: Path) -> None:
    """Transcribe a recording of two voices with its speakers, and draw who speaks when."""
    import aronnax
    from aronnax.collections.common.audio.reading import open_audio
    from aronnax.collections.diarization.joining import join
    from aronnax.collections.diarization.picture import draw
    from aronnax.collections.diarization.sortformer.model import SortformerModel

    diarizer = aronnax.load("diarizer-small", device="cpu")
    assert isinstance(diarizer, SortformerModel)
    (entry,) = _entries("conversation.jsonl")
    path = RECORDINGS / entry["audio_filepath"]
    transcript, diarization = model.transcribe(path), diarizer.diarize(path, num_speakers=2)
    assert not isinstance(transcript, list)
    assert not isinstance(diarization, list)
    echo(style("\n2. With the bundled diarizer it tells who says what", bold=True))
    echo(f"\n{path.name} ({transcript.duration:.2f} s), two voices:")
    said = [(f"SPEAKER {turn['speaker']}", turn["text"]) for turn in entry["turns"]]
    found = _by_speaker(join(transcript, diarization))
    for speaker, start, end, text in found:
        right = style("right", fg="green") if (speaker, text) in said else style("wrong", fg="red")
        echo(f"  {start:5.2f} to {end:5.2f} s  {speaker}: {style(text, bold=True)}  {right}")
    called = {name: f"SPEAKER {number}" for number, name in enumerate(diarization.speakers, start=1)}
    named = replace(
        diarization,
        turns=tuple(replace(turn, speaker=called[turn.speaker]) for turn in diarization.turns),
        names=tuple(called.get(name, name) for name in diarization.names),
        source=path.name,
    )
    audio = open_audio(path, diarizer.sample_rate)
    try:
        picture.write_bytes(draw(named, audio))
    finally:
        audio.close()
    echo(f"\ndrew who speaks when: {style(str(picture), bold=True)}")


def _by_speaker(transcript: Transcript) -> list[tuple[str, float, float, str]]:
    """(speaker, start, end, text) of each run of words by one speaker."""
    runs = [list(run) for _, run in groupby(transcript.words, key=lambda word: word.speaker)]
    return [
        (run[0].speaker or "nobody", run[0].start, run[-1].end, " ".join(word.text for word in run))
        for run in runs
    ]


def _fine_tune(steps: int) -> None:
    """Teach the digits model three new words, which its tokenizer does not even have."""
    from aronnax.collections.asr.training import TrainConfig, train
    from aronnax.core.config import from_dict

    task = style(f"3. Fine-tuning on {steps} batches of synthesised sums", bold=True)
    echo(
        f"\n{task}, to learn {', '.join(SIGNS)}: "
        "three pieces are added to the tokenizer and the old ones keep their rows"
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = {
            "init_from": "digits",
            "output": f"{folder}/run",
            "tokenizer": {"add": [f"▁{sign}" for sign in SIGNS]},
            "data": {
                "train": str(_sums(Path(folder), "train", 320, VOICES)),
                "validation": str(_sums(Path(folder), "unheard", 40, UNHEARD)),
                "batching": {"batch_size": 16, "buckets": 1},
                "num_workers": 0,
            },
            "optim": {"lr": 2e-3, "warmup_steps": 20},
            "trainer": {"max_steps": steps, "val_every": steps, "loggers": [], "accelerator": "cpu"},
        }
        result = train(from_dict(TrainConfig, config), say=lambda line: None)
    before, after = (
        style(f"{100 * scores['val/wer']:.1f} %", bold=True) for scores in (result.before, result.after)
    )
    echo(f"WER on sums by voices never heard in training: before {before}, after {after}")


def _sums(folder: Path, name: str, count: int, voices: tuple[str, ...]) -> Path:
    """Speak `count` sums such as "four plus two" with espeak-ng; return their manifest."""
    import soundfile

    from aronnax.collections.common.audio.speak import EspeakSynthesizer

    rng = random.Random(name)
    speaker = EspeakSynthesizer()
    lines = []
    (folder / name).mkdir()
    for index in range(count):
        text = f"{rng.choice(DIGITS)} {rng.choice(SIGNS)} {rng.choice(DIGITS)}"
        audio, rate = speaker.speak(
            text, voice=rng.choice(voices), rate=rng.randint(120, 190), pitch=rng.randint(25, 75)
        )
        path = folder / name / f"{index}.wav"
        soundfile.write(path, audio, rate)
        lines.append({"audio_filepath": str(path), "duration": len(audio) / rate, "text": text})
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest
