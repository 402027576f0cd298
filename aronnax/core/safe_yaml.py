"""Reading YAML that may come from a stranger: plain data only, bounded in size, no tags, no expanding aliases."""

from __future__ import annotations

import re
from typing import Any

import yaml

from aronnax.core.errors import ConfigError

MAX_BYTES = 16 * 2**20  # the largest public configuration is a quarter of a megabyte
MAX_NODES = 2_000_000
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)(?:[eE][-+]?\d+)$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader where 1e-5 is a number, as in YAML 1.2, and a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The plain data in a YAML text; ConfigError, naming `where`, if it is broken or holds anything but data."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} bytes of YAML is more than any configuration needs")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, where)
        return loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where} is not valid YAML: {_one_line(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


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


def _check(root: yaml.Node, where: str) -> None:
    """Refuse explicit tags, and aliases that contain themselves or unfold to more nodes than a config has."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in sizes:
            stack.pop()
            continue
        if node.tag not in _PLAIN:
            raise ConfigError(f"{where} holds the YAML tag {node.tag!r}; only plain data is read from a checkpoint")
        children = _children(node)
        if id(node) not in entered:
            entered.add(id(node))
            waiting = [child for child in children if id(child) not in sizes]
            if any(id(child) in entered for child in waiting):
                raise ConfigError(f"{where} holds a YAML alias that contains itself")
            stack.extend(waiting)
            if waiting:
                continue
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
        if sizes[id(node)] > MAX_NODES:
            raise ConfigError(f"{where}: its YAML aliases unfold to more than {MAX_NODES} values")
        stack.pop()


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
