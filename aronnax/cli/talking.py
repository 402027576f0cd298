"""What the verbs that ask a language model share: which model, recordings within a line of text, options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aronnax.core.errors import AudioError, OptionError

if TYPE_CHECKING:
    from aronnax.collections.llm.chat.messages import Audio

HEARING, READING = "digits-salm", "digits-lm"
"""The bundled models: one with ears, and the text model it stands on."""

_RECORDING = re.compile(r"""(?<!\S)@(?:"([^"]+)"|'([^']+)'|(\S+))""")
_SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".aiff", ".sph")


@dataclass(frozen=True)
class Asked:
    """Which model answers, and how it is loaded and asked."""

    model: str | None
    device: str | None
    dtype: str | None
    options: dict[str, Any]
    """Options of `generate` that were given; None among them is left to the model."""

    def load(self) -> Any:
        """The model; OptionError if it is none that answers."""
        from aronnax.cli.hearing import dtype_of
        from aronnax.core.loading import load

        name = self.model or default_model()
        model = load(name, device=self.device, dtype=dtype_of(self.dtype))
        if not hasattr(model, "generate_stream"):
            raise OptionError(
                f"{name} holds a {type(model).__name__}, which answers no questions; take a language model, with or "
                "without ears"
            )
        return model

    def given(self) -> dict[str, Any]:
        """The options without those that were not given; `--adapter none` is none at all."""
        given = {name: value for name, value in self.options.items() if value is not None}
        if given.get("adapter") == "none":
            given["adapter"] = False
        return given


def default_model() -> str:
    """The bundled model with ears where there is one, else the one without."""
    from aronnax.core.hub import bundled

    return HEARING if HEARING in bundled() else READING


def parts_of(line: str) -> list[str | Audio]:
    """The text and the recordings of a line, in order.

    `@talk.wav`, `@"my talk.wav"` and `@'my talk.wav'` are recordings where they begin a word. A word that neither is
    a file nor ends as one stays text.

    Raises AudioError for a recording that is not there.
    """
    from aronnax.collections.llm.chat.messages import Audio

    parts: list[str | Audio] = []
    said = 0
    for found in _RECORDING.finditer(line):
        path = next(group for group in found.groups() if group)
        bare = found[3] is not None
        if not Path(path).expanduser().is_file():
            if bare and not path.lower().endswith(_SOUNDS):
                continue
            quotes = "; a name with blanks stands in quotes" if bare else ""
            raise AudioError(f"there is no recording {path}{quotes}")
        parts += [line[said : found.start()].strip(), Audio(str(Path(path).expanduser()))]
        said = found.end()
    parts.append(line[said:].strip())
    return [part for part in parts if part]
