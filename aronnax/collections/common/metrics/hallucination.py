"""How much a recogniser writes where nobody speaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class NonSpeech:
    """What was written for recordings without speech; adding two gives both sets together."""

    recordings: int = 0
    seconds: float = 0.0
    characters: int = 0
    silent: int = 0
    """Recordings for which nothing was written, as is right."""

    @property
    def rate(self) -> float:
        """Characters per minute of sound."""
        return 60.0 * self.characters / self.seconds if self.seconds else 0.0

    def __add__(self, other: NonSpeech) -> NonSpeech:
        return NonSpeech(
            self.recordings + other.recordings,
            self.seconds + other.seconds,
            self.characters + other.characters,
            self.silent + other.silent,
        )

    def to_dict(self) -> dict[str, float | int]:
        """The numbers in JSON types."""
        return {
            "recordings": self.recordings,
            "seconds": self.seconds,
            "characters": self.characters,
            "silent": self.silent,
            "characters_per_minute": self.rate,
        }

    def __str__(self) -> str:
        return (
            f"{self.rate:.1f} characters a minute ({self.characters} in {self.seconds / 60:.1f} min; "
            f"{self.silent} of {self.recordings} recordings without any)"
        )


def non_speech(texts: Iterable[tuple[str, float]]) -> NonSpeech:
    """Counts what was written for recordings without speech: (text, seconds) each.

    >>> non_speech([("", 30.0), ("Thank you.", 30.0)]).rate
    10.0
    """
    total = NonSpeech()
    for text, seconds in texts:
        said = len(text.strip())
        total += NonSpeech(1, seconds, said, int(said == 0))
    return total
