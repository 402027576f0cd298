"""What a language model answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aronnax.core.errors import ConfigError


@dataclass(frozen=True)
class Reply:
    """The answer to one conversation.

    >>> reply = Reply("seven", (41,), (-0.1,), (0.25,))
    >>> str(reply)
    'seven'
    >>> Reply.from_dict(reply.to_dict()) == reply
    True
    """

    text: str
    """What is said, special tokens, stop texts and blanks before those left out."""
    tokens: tuple[int, ...] = ()
    """Its token ids."""
    log_probs: tuple[float, ...] = ()
    """Log-probability of each token; none if they were not asked for."""
    times: tuple[float, ...] = ()
    """Seconds from the start of answering to each token; none where tokens are known only at the end."""
    finished: str = "eos"
    """Why it ended: `eos` the model ended it, `stopped` a stop text did, `limit` there was no more room."""
    model: str | None = None
    """Which checkpoint answered."""
    notes: tuple[str, ...] = ()
    """What the reader should know of how it was made."""

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain values, ready for JSON."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "log_probs": list(self.log_probs),
            "times": list(self.times),
            "finished": self.finished,
            "model": self.model,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Reply:
        """The inverse of `to_dict`; a missing `text` raises ConfigError."""
        if "text" not in plain:
            raise ConfigError(f"a reply needs the field 'text', and this one has {sorted(plain)}")
        lists = {name: tuple(plain.get(name, ())) for name in ("tokens", "log_probs", "times", "notes")}
        return cls(plain["text"], finished=plain.get("finished", "eos"), model=plain.get("model"), **lists)
