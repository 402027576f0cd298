"""Aronnax: run, train and study public speech models.

>>> import aronnax
>>> model = aronnax.load("digits")  # doctest: +SKIP
>>> model.transcribe("a.wav").text  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names offered here, and the module each is fetched from on first use: importing aronnax itself must stay instant.
_LAZY = {
    "load": "aronnax.core.loading",
    "Transcript": "aronnax.collections.common.results",
    "Segment": "aronnax.collections.common.results",
    "Word": "aronnax.collections.common.results",
    "Reply": "aronnax.collections.common.results.reply",
    "Audio": "aronnax.collections.llm.chat.messages",
    "AronnaxError": "aronnax.core.errors",
}

__all__ = ["AronnaxError", "Audio", "Reply", "Segment", "Transcript", "Word", "__version__", "load"]

if TYPE_CHECKING:
    from aronnax.collections.common.results import Segment, Transcript, Word
    from aronnax.collections.common.results.reply import Reply
    from aronnax.collections.llm.chat.messages import Audio
    from aronnax.core.errors import AronnaxError
    from aronnax.core.loading import load


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'aronnax' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
