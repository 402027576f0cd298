"""Strict typed configurations: nested frozen dataclasses to and from plain mappings and YAML.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Encoder:
...     n_layers: int = 17
>>> from_dict(Encoder, {"n_layer": 4})
Traceback (most recent call last):
aronnax.core.errors.ConfigError: config.n_layer is not a known option; did you mean n_layers?
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aronnax.core.errors import ConfigError
from aronnax.core.safe_yaml import dump_yaml, parse_mapping

T = TypeVar("T")


def from_dict(cls: type[T], mapping: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass `cls` from plain data; ConfigError names the dotted key that is unknown or ill-typed."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} must hold named options ({', '.join(_types(cls))}), not {mapping!r}")
    known: dict[str, Any] = _types(cls)  # type: ignore[arg-type]
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not a known option; {nearest(str(key), known)}")
    values = {key: _convert(known[key], value, f"{where}.{key}") for key, value in mapping.items()}
    missing = [name for name in _required(cls) if name not in values]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is required and was not given")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The plain data of a dataclass: dataclasses become mappings and tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def to_yaml(config: Any) -> str:
    """The YAML text of a dataclass, in the order of its fields."""
    return dump_yaml(to_dict(config))


def load_yaml(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file into the dataclass `cls`, with `a.b=value` overrides applied on top."""
    return from_dict(cls, load_mapping(path, overrides), where=Path(path).name)


def load_mapping(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file of the user's own into plain data: overrides merged, `${a.b}` references resolved.

    An override is `name.of.option=value` or another YAML file, whose options take the place of the first one's.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        layers: list[Any] = [parse_mapping(path.read_bytes(), str(path))]
        for override in overrides:
            if "=" in override:
                layers.append(OmegaConf.to_container(OmegaConf.from_dotlist([override])))
            elif override.endswith((".yaml", ".yml")) and Path(override).is_file():
                layers.append(parse_mapping(Path(override).read_bytes(), override))
            else:
                raise ConfigError(
                    f"{override!r} is not an override; write it as name.of.option=value, or name a YAML file"
                )
        for index, layer in enumerate(layers):
            for before in layers[:index]:
                _make_way(before, layer)
        merged = OmegaConf.merge(*layers)
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _make_way(base: dict[Any, Any], layer: Mapping[Any, Any]) -> None:
    """Takes from `base` what `layer` replaces by another kind of container, which OmegaConf does not merge."""
    for key, value in layer.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _make_way(old, value)
        elif (
            isinstance(old, (dict, list)) and isinstance(value, (dict, list)) and type(old) is not type(value)
        ):
            del base[key]


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence that helps with a misspelt name: the nearest valid one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"it must be one of: {', '.join(sorted(names))}"


@cache
def _types(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def _required(cls: Any) -> list[str]:
    return [
        field.name
        for field in fields(cls)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or a ConfigError that names `where`."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(kind), value, where)
    if origin is Literal:
        # True == 1 in Python, so equality alone would let a switch pass for a number.
        if any(type(choice) is type(value) and choice == value for choice in get_args(kind)):
            return value
        choices = ", ".join(map(str, get_args(kind)))
        raise ConfigError(f"{where} is {value!r}; it must be one of: {choices}")
    if is_dataclass(kind):
        return value if isinstance(value, kind) else from_dict(kind, value, where)  # type: ignore[arg-type]
    if origin in (list, tuple) or kind in (list, tuple):
        return _convert_sequence(kind, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(kind, value, where)
    return _convert_scalar(kind, value, where)


def _convert_union(arms: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arms:
        return None
    arms = tuple(arm for arm in arms if arm is not type(None))
    if len(arms) == 1:
        return _convert(arms[0], value, where)
    nested = [arm for arm in arms if is_dataclass(arm)]
    if isinstance(value, Mapping) and len(nested) == 1:
        return _convert(nested[0], value, where)
    # An exact type wins over a widening one: 3 stays an int in `float | int`.
    for arm in sorted(arms, key=lambda arm: type(value) is not arm):
        try:
            return _convert(arm, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} is {value!r}; it must be {' or '.join(map(_name, arms))}")


def _convert_sequence(kind: Any, value: Any, where: str) -> Any:
    make = get_origin(kind) or kind
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}; it must be a list")
    arms = get_args(kind)
    if not arms:
        return make(value)
    if make is tuple and arms[-1] is not Ellipsis:
        if len(value) != len(arms):
            raise ConfigError(f"{where} is {list(value)!r}; it must have {len(arms)} values")
    else:
        arms = (arms[0],) * len(value)
    return make(_convert(arm, item, f"{where}[{i}]") for i, (arm, item) in enumerate(zip(arms, value)))


def _convert_mapping(kind: Any, value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be a mapping of names to values")
    key_kind, item_kind = get_args(kind)
    return {
        _convert(key_kind, key, f"{where} key"): _convert(item_kind, item, f"{where}.{key}")
        for key, item in value.items()
    }


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and not (isinstance(value, bool) and kind is not bool)
    ):
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_name(kind)}")


def _name(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return plain.get(kind) or getattr(kind, "__name__", None) or str(kind)
