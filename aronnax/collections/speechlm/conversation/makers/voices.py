"""Speech from text for the makers: what they ask of a synthesiser, and espeak-ng with a voice for each clip.

S samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from aronnax.core.errors import OptionError


class Synthesizer(Protocol):
    """Speaks a text: any function of this form will do, around whatever makes speech."""

    def __call__(self, text: str, seed: int) -> tuple[np.ndarray, int]:
        """Samples float32 [S] and their rate in Hz; the seed chooses the speaker."""
        ...


class EspeakVoices:
    """espeak-ng: language, speaker, speed and pitch drawn for each clip.

    Its voices flutter: the same text and seed give audio that differs a little from call to call.
    """

    def __init__(self, languages: Sequence[str] = ("en-us", "en-gb", "en-gb-scotland")) -> None:
        """Voices by the names of espeak-ng, one drawn for each text; one it has not is an error at once."""
        from aronnax.collections.common.audio.speak import EspeakSynthesizer

        if not languages:
            raise OptionError("name at least one voice, such as en-us")
        self._espeak = EspeakSynthesizer()
        for language in languages:
            self._espeak.speak("a", voice=language)  # says at once where there is no such voice
        self.languages = tuple(languages)

    @cached_property
    def speakers(self) -> list[str]:
        """The variants that sound like people: m1 to m8 and f1 to f5."""
        return [name for name in self._espeak.variants() if len(name) == 2 and name[0] in "mf"]

    def __call__(self, text: str, seed: int) -> tuple[np.ndarray, int]:
        """Samples float32 [S] and their rate in Hz."""
        draws = random.Random(seed)
        voice = f"{draws.choice(self.languages)}+{draws.choice(self.speakers)}"
        rate, pitch, extent = draws.randint(140, 200), draws.randint(30, 70), draws.randint(30, 70)
        return self._espeak.speak(text, voice=voice, rate=rate, pitch=pitch, range=extent)
