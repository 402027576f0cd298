"""Speech from text: the `Synthesizer` protocol and espeak-ng through its shared library.

Legend: `S` samples. Audio is float32 in [-1, 1], mono.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from aronnax.core.errors import AronnaxError, MissingExtraError, OptionError

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}
_LIMITS = {"rate": (80, 450), "volume": (0, 200), "pitch": (0, 99), "range": (0, 99)}
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer(Protocol):
    """Anything that turns text into audio."""

    def voices(self) -> list[str]:
        """Names that `speak` accepts as `voice`."""
        ...

    def speak(self, text: str, *, voice: str, rate: int, pitch: int, range: int) -> tuple[np.ndarray, int]:
        """Audio [S] (float32) of the text, and its sample rate in Hz."""
        ...


class _Voice(ctypes.Structure):
    """espeak_VOICE of speak_lib.h."""

    _fields_: ClassVar = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("padding", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


class _Engine:
    """The one espeak-ng of this process: the library keeps its voice and settings in globals."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingExtraError("espeakng-loader", "speak", "speech synthesis") from error
        self.data = Path(espeakng_loader.get_data_path())
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._declare()
        self.sample_rate = self.library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(self.data.parent).encode(), _DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise AronnaxError(
                f"espeak-ng could not start with its data in {self.data}: reinstall espeakng-loader"
            )
        self.tags = self.languages()
        self.chunks: list[np.ndarray] = []
        self.callback = _CALLBACK(self._receive)  # kept: the library holds only a bare pointer
        self.library.espeak_SetSynthCallback(self.callback)

    def _declare(self) -> None:
        self.library.espeak_Initialize.argtypes = [
            ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int,
        ]  # fmt: skip
        self.library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self.library.espeak_ListVoices.argtypes = [ctypes.c_void_p]
        self.library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self.library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def languages(self) -> dict[str, str]:
        """Each language tag (`en-gb`) and voice file's name (`en`), in lower case -> the voice file's name."""
        listed = self.library.espeak_ListVoices(None)
        tags: dict[str, str] = {}
        names: dict[str, str] = {}
        # The list ends in a null pointer.
        for voice in (
            entry.contents for entry in itertools.takewhile(bool, (listed[i] for i in itertools.count()))
        ):
            name = voice.identifier.decode().rsplit("/", 1)[-1]
            names[name.lower()] = name
            place = voice.languages
            # A priority byte and a tag that ends in a zero, again and again; a zero priority ends the list.
            while ctypes.string_at(place, 1) != b"\0":
                tag = ctypes.string_at(place + 1)
                tags.setdefault(tag.decode().lower(), name)
                place += len(tag) + 2
        return tags | names

    def variants(self) -> list[str]:
        """The names of the voice variants, added to a language with a plus sign."""
        return sorted(path.name for path in (self.data / "voices" / "!v").iterdir())

    def speak(self, text: str, voice: str, settings: dict[str, int]) -> np.ndarray:
        """Audio [S] (float32); not safe to call from two threads at once."""
        tag, plus, variant = voice.partition("+")
        language = self.tags.get(tag.lower(), tag)
        # The library takes an unknown variant without a word and speaks in the plain voice.
        known = not variant or (self.data / "voices" / "!v" / variant).is_file()
        if not known or self.library.espeak_SetVoiceByName(f"{language}{plus}{variant}".encode()) != 0:
            raise OptionError(
                f"voice={voice!r}: espeak-ng has no such voice; see voices() and variants() of EspeakSynthesizer"
            )
        for name, value in settings.items():
            self.library.espeak_SetParameter(_PARAMETERS[name], value, 0)
        self.chunks.clear()
        data = text.encode() + b"\0"
        self.library.espeak_Synth(data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        self.library.espeak_Synchronize()
        if not self.chunks:
            return np.zeros(0, dtype=np.float32)
        return np.concatenate(self.chunks).astype(np.float32) / 32768


_lock = threading.Lock()
_engine: _Engine | None = None


def _with_engine(use: Callable[[_Engine], Any]) -> Any:
    global _engine
    with _lock:
        if _engine is None:
            _engine = _Engine()
        return use(_engine)


class EspeakSynthesizer:
    """espeak-ng inside this process; calls from several threads take turns.

    Its voices flutter: the same call gives audio that differs by a few samples in length each time.

    A voice is a language tag (`en-us`, `en-gb-scotland`, `de`) with an optional variant after a plus sign
    (`en-us+f2`, `en+klatt3`).

    >>> audio, rate = EspeakSynthesizer().speak("four two", voice="en-us+m3")  # doctest: +SKIP
    """

    def voices(self) -> list[str]:
        """The names of the language voices, each of which takes any of `variants()` after a plus sign."""
        return list(_with_engine(lambda engine: sorted(set(engine.tags.values()))))

    def variants(self) -> list[str]:
        """The names of the variants: speakers (`m1`, `f3`, `Alex`), other vocal tracts (`klatt`), whisper."""
        return list(_with_engine(_Engine.variants))

    def speak(
        self,
        text: str,
        *,
        voice: str = "en-us",
        rate: int = 175,
        pitch: int = 50,
        range: int = 50,
        volume: int = 100,
    ) -> tuple[np.ndarray, int]:
        """Audio [S] (float32, mono) of `text`, and its sample rate in Hz.

        `rate` is in words a minute (80 to 450); `pitch` and `range` (of the pitch) go from 0 to 99 and
        `volume` from 0 to 200. Raises OptionError for a value outside these or a voice that does not exist.
        """
        settings = {"rate": rate, "volume": volume, "pitch": pitch, "range": range}
        for name, value in settings.items():
            low, high = _LIMITS[name]
            if not low <= value <= high:
                raise OptionError(f"{name}={value}: espeak-ng takes {low} to {high}")

        def use(engine: _Engine) -> tuple[np.ndarray, int]:
            return engine.speak(text, voice, settings), engine.sample_rate

        audio, sample_rate = _with_engine(use)
        return audio, sample_rate
