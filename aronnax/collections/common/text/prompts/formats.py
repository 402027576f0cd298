"""The two prompts of the Canary family: `canary` (canary-1b) and `canary2` (flash, v2).

Sources: Puvvada et al. 2024 (arXiv:2406.19674); NeMo 3.0.0's formatters of the same names give the same ids.
They differ in one thing: a switch here takes every spelling of yes and no, where NeMo turns Python's `True`, `1` and
`Yes` silently into no.
"""

from __future__ import annotations

from collections.abc import Mapping

from aronnax.collections.common.text.prompts.slots import PromptFormat, Slot
from aronnax.core.config import nearest
from aronnax.core.errors import OptionError

TRANSCRIBE, TRANSLATE = "<|transcribe|>", "<|translate|>"
TASKS: Mapping[str, str] = {
    "transcribe": TRANSCRIBE,
    "asr": TRANSCRIBE,
    TRANSCRIBE: TRANSCRIBE,
    "translate": TRANSLATE,
    "ast": TRANSLATE,
    "s2t_translation": TRANSLATE,
    TRANSLATE: TRANSLATE,
}
"""Every spelling of a task, and its token."""

_EMOTIONS = {
    spelling: f"<|emo:{name}|>"
    for name in ("undefined", "neutral", "angry", "happy", "sad")
    for spelling in (name, f"<|emo:{name}|>")
}


def prompt_format(name: str) -> PromptFormat:
    """The format called `name`; OptionError lists those there are."""
    if name not in PROMPT_FORMATS:
        raise OptionError(f"prompt format {name!r} is not known; {nearest(str(name), PROMPT_FORMATS)}")
    return PROMPT_FORMATS[name]


def _task_from_languages(values: dict[str, str]) -> dict[str, str]:
    """Two languages that differ are a translation, unless something else was said."""
    if "task" not in values and "source_lang" in values and "target_lang" in values:
        same = values["source_lang"] == values["target_lang"]
        return {**values, "task": TRANSCRIBE if same else TRANSLATE}
    return values


def _slots(*slots: Slot) -> Mapping[str, Slot]:
    return {slot.name: slot for slot in slots}


_SOURCE, _TARGET = Slot("source_lang", "language"), Slot("target_lang", "language")

_CANARY = PromptFormat(
    name="canary",
    slots=_slots(
        _SOURCE,
        Slot("task", "choice", TASKS),
        _TARGET,
        Slot("pnc", "switch", default="<|pnc|>"),
    ),
    template=("<|startoftranscript|>", "{source_lang}", "{task}", "{target_lang}", "{pnc}"),
    aliases={"taskname": "task"},
    derive=_task_from_languages,
)

_CANARY2 = PromptFormat(
    name="canary2",
    slots=_slots(
        Slot("decodercontext", "text", default=""),
        Slot("emotion", "choice", _EMOTIONS, default="<|emo:undefined|>"),
        _SOURCE,
        _TARGET,
        Slot("pnc", "switch", default="<|pnc|>"),
        Slot("itn", "switch", default="<|noitn|>"),
        Slot("timestamp", "switch", default="<|notimestamp|>"),
        Slot("diarize", "switch", default="<|nodiarize|>"),
    ),
    template=(
        "<|startofcontext|>",
        "{decodercontext}",
        "<|startoftranscript|>",
        "{emotion}",
        "{source_lang}",
        "{target_lang}",
        "{pnc}",
        "{itn}",
        "{timestamp}",
        "{diarize}",
    ),
    partial=("<|startofcontext|>", "{decodercontext}", "<|startoftranscript|>"),
    aliases={"context": "decodercontext"},
)

PROMPT_FORMATS: Mapping[str, PromptFormat] = {"canary": _CANARY, "canary2": _CANARY2}
"""Every format by its name in a checkpoint's configuration."""
