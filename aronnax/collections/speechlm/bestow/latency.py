"""How late an answer comes: the log of its delays, and length-adaptive average lagging (LAAL, arXiv 2206.05807).

>>> laal([500.0, 1000.0], source=1000.0, reference_length=2)
500.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aronnax.core.errors import OptionError


def laal(delays: Sequence[float], source: float, reference_length: int) -> float:
    """Average lagging of words written at `delays`, behind a speaker whose `source` holds as many, evenly spread.

    delays: how much of the source was heard when each word was written, in any unit, `source` being in the same.
    reference_length: words of the reference; a longer answer counts as the reference, so that saying more is no gain.
    Words after the first one that waited for the whole source are left out. Numbers are NeMo 3.0.0's `compute_laal`.
    Raises OptionError without delays or for a source of no length.
    """
    if not delays or source <= 0:
        raise OptionError(
            f"lagging needs words and a source: there are {len(delays)} words over a source of {source}"
        )
    if delays[0] > source:
        return float(delays[0])
    pace = max(len(delays), reference_length) / source
    lags = []
    for number, delay in enumerate(delays):
        lags.append(delay - number / pace)
        if delay >= source:
            break
    return float(sum(lags) / len(lags))


@dataclass(frozen=True)
class Written:
    """A token of an answer and when it came."""

    token: int
    text: str
    """What it added to the text."""
    heard: float
    """Seconds of the speech heard when it was written, look-ahead included."""
    end: bool = False
    """Whether it ended the answer instead of adding to it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"token": self.token, "text": self.text, "heard": self.heard, "end": self.end}


@dataclass
class DelayLog:
    """Every token with the seconds of speech heard when it was written."""

    written: list[Written] = field(default_factory=list)
    source: float = 0.0
    """Seconds of speech in all, known at its end."""

    def word_delays(self) -> list[float]:
        """Seconds heard at the first token of each word, and at the end of the answer, as NeMo counts words."""
        delays, inside = [], False
        for one in self.written:
            if one.end:
                delays.append(one.heard)
                break
            for character in one.text:
                if not character.isspace() and not inside:
                    delays.append(one.heard)
                inside = not character.isspace()
        return delays

    def laal(self, reference: str | None = None) -> float | None:
        """Lagging in seconds behind the words of the reference (of the answer itself where there is none).

        None where nothing was written or nothing heard.
        """
        delays = self.word_delays()
        if not delays or self.source <= 0:
            return None
        return laal(delays, self.source, 0 if reference is None else len(reference.split()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"source": self.source, "written": [one.to_dict() for one in self.written]}
