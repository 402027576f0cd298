"""Prompt slots of multitask data: what a recording is to be turned into, kept on its cut as custom fields.

A manifest has one line for each task and language; the fields below are its slots, and `text` (or `answer`) is what
the model must say. Sources write the slots of their `slots:` option where a recording has none of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aronnax.collections.common.data.non_speech import NON_SPEECH
from aronnax.core.config import nearest
from aronnax.core.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from lhotse.cut import Cut

SLOTS = (
    "source_lang",
    "target_lang",
    "task",
    "pnc",
    "itn",
    "timestamp",
    "diarize",
    "decodercontext",
    "emotion",
)
"""Names of the slots; manifests may write `taskname` for `task`."""

PLACE = "read_from"
"""Custom field of a cut: the file and line that it was read from, for messages."""

_OTHER_NAMES = {"taskname": "task"}
_TRANSLATIONS = ("ast", "s2t_translation", "translate")


def cut_slots(cut: Cut, known: Collection[str] = SLOTS) -> dict[str, str]:
    """The slots a cut has, as text; true and false become "yes" and "no".

    The first supervision that has a slot is asked before the cut itself. `known` leaves out slots that a prompt
    format has no place for.
    """
    places = [supervision.custom for supervision in cut.supervisions] + [cut.custom]
    found: dict[str, str] = {}
    for custom in places:
        for name, value in read_slots(custom or {}).items():
            found.setdefault(name, value)
    return {name: value for name, value in found.items() if name in known}


def read_slots(fields: Mapping[str, Any]) -> dict[str, str]:
    """The slots among a manifest line's fields, in the order of `SLOTS`."""
    found = {
        _OTHER_NAMES.get(name, name): slot_text(value)
        for name, value in fields.items()
        if value is not None and _OTHER_NAMES.get(name, name) in SLOTS
    }
    return {name: found[name] for name in SLOTS if name in found}


def slot_text(value: Any) -> str:
    """A slot's value as text: YAML reads a bare `yes` as true."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def checked_slots(slots: Mapping[str, Any], where: str) -> dict[str, str]:
    """The `slots:` option of an input, its values as text.

    Raises:
        ConfigError: a name is no slot, or a value is neither text, a number, true nor false.
    """
    for name, value in slots.items():
        if _OTHER_NAMES.get(name, name) not in SLOTS:
            raise ConfigError(f"{where}: slots.{name} is not a known slot; {nearest(name, SLOTS)}")
        if not isinstance(value, (str, bool, int, float)):
            raise ConfigError(f"{where}: slots.{name} is {value!r}; it must be text")
    return read_slots(slots)


def fill_slots(cut: Cut, defaults: Mapping[str, str], required: Iterable[str], where: str) -> Cut:
    """Write `defaults` into the slots a cut lacks, and check that it has what it needs.

    The language of the supervisions becomes the target language, since that is what their text is in. The text of a
    recording without speech may be missing; it is empty then. `where` is kept on the cut.

    Args:
        required: Slots, and `text`, that every recording must have.
        where: The file and line, for messages.

    Raises:
        ManifestError: a required field is missing, or a translation lacks its target_lang.
    """
    slots = cut_slots(cut)
    added = {name: value for name, value in defaults.items() if name not in slots}
    cut.custom = {**(cut.custom or {}), **added, PLACE: where}
    slots.update(added)
    quiet = bool(cut.custom.get(NON_SPEECH))
    target = slots.get("target_lang")
    has_text = quiet
    for supervision in cut.supervisions:
        if quiet and supervision.text is None:
            supervision.text = ""
        has_text = has_text or supervision.text is not None
        supervision.language = target or supervision.language
    needed = set(required)
    if slots.get("task") in _TRANSLATIONS:
        needed |= {"target_lang", "text"}
    for name in ("text", *SLOTS):
        if name in needed and name not in slots and not (name == "text" and has_text):
            raise ManifestError(_missing(name, slots, where))
    return cut


def _missing(name: str, slots: Mapping[str, str], where: str) -> str:
    if name == "text":
        language = slots.get("target_lang")
        what = f" in the target language ({language})" if language else ""
        return f"{where}: the field text is missing; it holds what the model must say{what}"
    return f"{where}: the field {name} is missing; write it on each line, or once for all as `slots: {{{name}: ...}}`"
