"""Reading YAML that may come from a stranger: plain data only, bounded in size and depth.

The text is taken apart by PyYAML's (C) parser into events, and the data is built from these in one pass without
recursion: no tags, no constructors, no aliases that unfold without end, nesting that cannot overflow a stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from aronnax.core.errors import ConfigError

MAX_BYTES = 16 * 2**20  # the largest public configuration is a quarter of a megabyte
MAX_VALUES = 2_000_000
MAX_DEPTH = 100
_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMERIC = frozenset("+-.0123456789")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_BASED = re.compile(r"[-+]?(?:(0b)[01_]+|(0x)[0-9a-fA-F_]+|(0)[0-7_]+)")
# As in YAML 1.2 and OmegaConf, 1e-5 is a number although it has no point.
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?)"
)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The plain data in a YAML text; ConfigError, naming `where`, if it is broken or holds anything but data."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} bytes of YAML is more than any configuration needs")
    builder = _Builder(where)
    try:
        for event in yaml.parse(text, Loader=_Parser):
            builder.feed(event)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        # PyYAML from 6.0.4 on looks ahead, and refuses by itself what is nested a thousand deep.
        if "maximum nesting depth" in said:
            said = f"nested deeper than {MAX_DEPTH} levels"
        raise ConfigError(f"{where} is not valid YAML: {said}") from None
    return builder.result


def parse_mapping(text: str | bytes, where: str) -> dict[str, Any]:
    """The same for a document that must be a mapping with text keys."""
    data = parse_yaml(text, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of names to values, not {type(data).__name__}")
    return data


def dump_yaml(data: Any) -> str:
    """Plain data as YAML text in the order given."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper without aliases: what is written is always read back by any reader."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass
class _Open:
    """A collection whose end has not been seen yet."""

    data: dict[Any, Any] | list[Any]
    anchor: str | None
    before: int
    """Values seen before it began."""
    key: Any = None
    has_key: bool = False
    merged: list[Any] = field(default_factory=list)


class _Merge:
    """Stands for the plain key `<<`."""


class _Builder:
    def __init__(self, where: str) -> None:
        self.where = where
        self.result: Any = None
        self.documents = 0
        self.values = 0
        self.open: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}

    def feed(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
            self._count(1)
            if event.anchor:
                self.anchors[event.anchor] = (value, 1)
            self._place(value)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._begin(event, [] if isinstance(event, yaml.SequenceStartEvent) else {})
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._end(self.open.pop())
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor))
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._refuse("holds more than one YAML document")

    def _begin(self, event: Any, data: dict[Any, Any] | list[Any]) -> None:
        if event.tag not in _COLLECTION_TAGS:
            raise self._refuse_tag(event.tag)
        if len(self.open) >= MAX_DEPTH:
            raise self._refuse(
                f"is not valid YAML for a configuration: nested deeper than {MAX_DEPTH} levels"
            )
        self.open.append(_Open(data, event.anchor, self.values))
        self._count(1)

    def _end(self, done: _Open) -> None:
        for base in done.merged:
            assert isinstance(done.data, dict)
            done.data = {**base, **done.data}
        if done.anchor:
            self.anchors[done.anchor] = (done.data, self.values - done.before)
        self._place(done.data)

    def _alias(self, name: str) -> None:
        if any(part.anchor == name for part in self.open):
            raise self._refuse("holds a YAML alias that contains itself")
        if name not in self.anchors:
            raise self._refuse(f"is not valid YAML: alias *{name} stands for nothing")
        value, size = self.anchors[name]
        self._count(size)
        self._place(value)

    def _place(self, value: Any) -> None:
        """Put a finished value where it belongs in the innermost open collection."""
        if not self.open:
            self.result = None if value is _Merge else value
            return
        parent = self.open[-1]
        if isinstance(parent.data, list):
            parent.data.append("<<" if value is _Merge else value)
        elif not parent.has_key:
            if isinstance(value, (dict, list)):
                raise self._refuse("is not valid YAML for a configuration: a key must be a plain value")
            parent.key, parent.has_key = value, True
        else:
            parent.has_key = False
            if parent.key is _Merge:
                self._merge(parent, value)
            elif parent.key in parent.data:
                raise self._refuse(f"holds the key {parent.key!r} twice")
            else:
                parent.data[parent.key] = "<<" if value is _Merge else value

    def _merge(self, parent: _Open, value: Any) -> None:
        bases = value if isinstance(value, list) else [value]
        if not all(isinstance(base, dict) for base in bases):
            raise self._refuse("is not valid YAML: << must be followed by mappings")
        parent.merged.extend(bases)

    def _scalar(self, event: Any) -> Any:
        if event.tag not in _TEXT_TAGS:
            raise self._refuse_tag(event.tag)
        text: str = event.value
        if not event.implicit[0] or event.tag is not None:
            return text
        if text == "<<":
            return _Merge
        if text in _WORDS:
            return _WORDS[text]
        return _number(text) if text[0] in _NUMERIC else text

    def _count(self, size: int) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            raise self._refuse(f"holds too much: its YAML aliases unfold to more than {MAX_VALUES} values")

    def _refuse(self, reason: str) -> ConfigError:
        return ConfigError(f"{self.where} {reason}")

    def _refuse_tag(self, tag: str) -> ConfigError:
        return self._refuse(f"holds the YAML tag {tag!r}; only plain data is read from a configuration")


def _number(text: str) -> int | float | str:
    """The number a plain scalar is, or the text itself."""
    digits = text.replace("_", "")
    if len(text) > 400:  # no number has so many digits, and converting one takes quadratic time
        return text
    if _INT.fullmatch(text):
        return int(digits)
    if _FLOAT.fullmatch(text):
        return float(digits)
    based = _BASED.fullmatch(text)
    if based is None:
        return text
    return int(digits, 2 if based[1] else 16 if based[2] else 8)
