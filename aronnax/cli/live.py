"""What comes from a microphone or standard input, and turns printed as they end: `aronnax diarize --live`."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from aronnax.core.errors import AudioError, MissingExtraError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.common.results import Turn
    from aronnax.collections.diarization.sortformer.model import SortformerModel

LATENCY = 1.04
"""Seconds of `--live` where nothing is said."""
READ_SECONDS = 0.1
RECORDING = "live"
"""What RTTM calls what is heard."""


@dataclass(frozen=True)
class Live:
    """How it is heard and printed."""

    latency: float | str | None
    file_format: str
    rate: int | None


def listen(model: SortformerModel, inputs: list[str] | None, live: Live, processing: dict[str, Any]) -> int:
    """Print each turn when it is over, until what is heard ends or Ctrl-C (status 130); the exit status."""
    from aronnax.collections.diarization import postprocessing
    from aronnax.collections.diarization.live_turns import LiveTurns

    check_inputs(inputs)
    options = postprocessing.choose(**processing, streaming=model.config.streaming)
    stream = model.stream(LATENCY if live.latency is None else live.latency)  # type: ignore[arg-type]
    turns = LiveTurns(
        tuple(f"speaker_{number}" for number in range(model.max_speakers)), options, model.frame_seconds
    )
    status = 0
    try:
        for samples in heard(inputs, live.rate, model.sample_rate):
            _print(turns.push(stream.push(samples).cpu().numpy()), live.file_format)
    except KeyboardInterrupt:
        status = 130
    _print(turns.push(stream.finish().cpu().numpy()), live.file_format)
    _print(turns.finish(stream.seconds), live.file_format)
    return status


def check_inputs(inputs: list[str] | None) -> None:
    """OptionError unless a microphone (None) or standard input ("-") is meant."""
    if inputs not in (None, ["-"]):
        raise OptionError(
            f"--live hears a microphone or standard input (-), not {inputs[0] if inputs else ''}: leave --live out"
            " for recordings"
        )


def heard(inputs: list[str] | None, asked: int | None, rate: int) -> Iterator[np.ndarray]:
    """Samples [S] at `rate` of the microphone, or of standard input, whose raw samples come at `asked`."""
    if inputs is None:
        return _microphone(rate, asked)
    return resampled(samples_of(sys.stdin.buffer, asked or rate), rate)


def samples_of(file: BinaryIO, rate: int) -> Iterator[tuple[np.ndarray, int]]:
    """Samples [S] with their rate, as they come: a wav stream, or else raw 16-bit little-endian of one channel.

    Raises AudioError for a wav stream that is damaged or coded.
    """
    start = file.read(4)
    if start == b"RIFF":
        form = _header(file)
        yield from ((samples, form.rate) for samples in _pieces(file, form, b""))
    else:
        yield from ((samples, rate) for samples in _pieces(file, _Form(1, 1, 16, rate), start))


def resampled(pieces: Iterator[tuple[np.ndarray, int]], rate: int) -> Iterator[np.ndarray]:
    """Pieces [S] that follow each other, at `rate`."""
    import soxr

    stream = None
    for samples, given in pieces:
        if given == rate:
            yield samples
            continue
        if stream is None:
            stream = soxr.ResampleStream(given, rate, 1, dtype="float32")
        yield stream.resample_chunk(samples)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


@dataclass(frozen=True)
class _Form:
    """How samples are coded: 1 for integers, 3 for floats."""

    code: int
    channels: int
    bits: int
    rate: int

    @property
    def kind(self) -> np.dtype[Any]:
        known = {(1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
        if (self.code, self.bits) not in known:
            raise AudioError(
                f"standard input: a wav stream of format {self.code} with {self.bits} bits; convert it to 16-bit"
                " PCM, for instance with ffmpeg -i IN -f s16le -ac 1 -ar 16000 -"
            )
        return np.dtype(known[self.code, self.bits])


def _header(file: BinaryIO) -> _Form:
    """Reads a wav stream up to its samples."""
    if file.read(8)[4:] != b"WAVE":
        _damaged("it is a RIFF file but no wav")
    form = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            _damaged("it ends before its samples")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            break
        body = file.read(size + size % 2)
        if name == b"fmt ":
            if len(body) < 16:
                _damaged("its format is too short")
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            # An extensible format has the code of its samples at the head of its sub-format.
            code = struct.unpack("<H", body[24:26])[0] if code == 0xFFFE and len(body) >= 26 else code
            form = _Form(code, channels, bits, rate)
    if form is None or form.channels < 1 or form.rate < 1:
        _damaged("it does not say its format before its samples")
    return form


def _damaged(why: str) -> NoReturn:
    raise AudioError(f"standard input: the wav stream is damaged: {why}")


def _pieces(file: BinaryIO, form: _Form, rest: bytes) -> Iterator[np.ndarray]:
    kind = form.kind
    width = kind.itemsize * form.channels
    size = max(round(READ_SECONDS * form.rate), 1) * width
    read = getattr(file, "read1", file.read)
    while True:
        new = read(size)
        rest += new
        whole = len(rest) // width * width
        if whole:
            samples = np.frombuffer(rest[:whole], kind).reshape(-1, form.channels)
            scale = float(np.iinfo(kind).max) + 1.0 if kind.kind == "i" else 1.0
            yield (samples.astype(np.float32) / np.float32(scale)).mean(1)
            rest = rest[whole:]
        if not new:
            return


def _microphone(rate: int, asked: int | None) -> Iterator[np.ndarray]:
    if asked is not None:
        raise OptionError(
            "--rate is for raw samples on standard input (-): the microphone is asked for the model's"
        )
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError(
            "sounddevice", "live", "listening to a microphone (or pipe audio into --live -)"
        ) from error
    except OSError as error:
        raise AudioError(
            f"the microphone cannot be opened ({error}): install PortAudio (Debian: apt install libportaudio2)"
        ) from error
    return _recorded(sounddevice, rate)


def _recorded(sounddevice: Any, rate: int) -> Iterator[np.ndarray]:
    try:
        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32") as microphone:
            print("listening; Ctrl-C ends", file=sys.stderr)
            while True:
                yield microphone.read(round(READ_SECONDS * rate))[0][:, 0].copy()
    except sounddevice.PortAudioError as error:
        raise AudioError(f"the microphone cannot be opened: {error}") from error


def _print(turns: list[Turn], file_format: str) -> None:
    for turn in turns:
        if file_format == "json":
            print(json.dumps(turn.to_dict(), ensure_ascii=False), flush=True)
        else:
            print(
                f"SPEAKER {RECORDING} 1 {turn.start:.3f} {turn.duration:.3f} <NA> <NA> {turn.speaker} <NA> <NA>",
                flush=True,
            )
