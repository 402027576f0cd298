"""What was left out of the data, and why: counted, with one example of each reason."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

_WARNINGS = 20
"""Recordings named one by one in a pass."""


@dataclass
class Reason:
    """Recordings left out for one reason."""

    count: int = 0
    seconds: float = 0.0
    example: str = ""


@dataclass
class Dropped:
    """Counts of kept and dropped recordings."""

    kept: int = 0
    kept_seconds: float = 0.0
    reasons: dict[str, Reason] = field(default_factory=dict)

    def keep(self, seconds: float) -> None:
        """Count a recording that takes part."""
        self.kept += 1
        self.kept_seconds += seconds

    def drop(self, reason: str, example: str, seconds: float) -> None:
        """Count a recording that is left out; the first example of each reason is kept."""
        entry = self.reasons.setdefault(reason, Reason(example=example))
        entry.count += 1
        entry.seconds += seconds

    def unreadable(self, name: str, why: str, seconds: float | None = None) -> None:
        """Count a recording that cannot be read and warn, naming it; after many warnings only count."""
        self.drop("unreadable audio", name, seconds or 0.0)
        count = self.reasons["unreadable audio"].count
        if count <= _WARNINGS:
            logger.warning("%s is skipped: %s", name, why)
        if count == _WARNINGS:
            logger.warning("further unreadable recordings are counted, but no longer named")

    def clear(self) -> None:
        """Begin to count anew."""
        self.kept, self.kept_seconds = 0, 0.0
        self.reasons.clear()

    def note(self, skipped: Iterable[tuple[str, str, float]]) -> None:
        """Move recordings from kept to unreadable: their name, what was wrong, and seconds."""
        for name, why, seconds in skipped:
            self.kept -= 1
            self.kept_seconds -= seconds
            self.unreadable(name, why, seconds)

    @property
    def count(self) -> int:
        """Recordings left out in all."""
        return sum(reason.count for reason in self.reasons.values())

    def __str__(self) -> str:
        total = self.kept + self.count
        hours = self.kept_seconds / 3600
        if not self.count:
            return f"all {total} recordings are used ({hours:.2f} h)"
        lost = sum(reason.seconds for reason in self.reasons.values()) / 3600
        lines = [
            f"{self.kept} of {total} recordings are used ({hours:.2f} h), {self.count} left out ({lost:.2f} h):"
        ]
        for name, reason in sorted(self.reasons.items(), key=lambda item: -item[1].count):
            lines.append(f"  {reason.count} {name}, such as {reason.example}")
        return "\n".join(lines)
