"""Typed configurations: what fits goes through unchanged, what does not is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from aronnax.core.config import from_dict, load_mapping, load_yaml, to_dict, to_yaml
from aronnax.core.errors import ConfigError
from aronnax.core.safe_yaml import MAX_BYTES, dump_yaml, parse_yaml


@dataclass(frozen=True)
class Inner:
    n_layers: int = 17
    rate: float = 0.1
    contexts: tuple[tuple[int, int], ...] = ((-1, -1),)
    size: Literal["causal"] | tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    flags: dict[str, bool] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    maybe: int | None = None

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name must not be bad")


FULL = Outer("x", Inner(3, 1e-5, ((1, 2), (-1, 0)), (4, 4), "b"), {"on": True}, ["p", "q"], 5)


def test_a_config_survives_yaml() -> None:
    assert from_dict(Outer, parse_yaml(to_yaml(FULL), "t")) == FULL
    assert to_dict(FULL)["inner"]["contexts"] == [[1, 2], [-1, 0]]


def test_whole_numbers_widen_to_floats_and_lists_become_tuples() -> None:
    made = from_dict(Inner, {"rate": 1, "contexts": [[1, 2]], "size": [3, 3]})
    assert made == Inner(rate=1.0, contexts=((1, 2),), size=(3, 3))
    assert type(made.rate) is float


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nmae": "x"}, r"config\.nmae is not a known option; did you mean name\?"),
        ({"name": "x", "inner": {"n_layer": 1}}, r"config\.inner\.n_layer .* did you mean n_layers\?"),
        ({"name": "x", "zzz": 1}, r"config\.zzz .* it must be one of: flags, inner, maybe, name, paths"),
        ({}, r"config\.name is required"),
        ({"name": 3}, r"config\.name is 3; it must be text"),
        (
            {"name": "x", "inner": {"n_layers": 1.5}},
            r"config\.inner\.n_layers is 1\.5; it must be a whole number",
        ),
        ({"name": "x", "inner": {"n_layers": True}}, r"n_layers is True; it must be a whole number"),
        ({"name": "x", "inner": {"n_layers": "12"}}, r"n_layers is '12'"),
        ({"name": "x", "inner": {"kind": "c"}}, r"config\.inner\.kind is 'c'; it must be one of: a, b"),
        ({"name": "x", "inner": {"contexts": [[1]]}}, r"contexts\[0\] is \[1\]; it must have 2 values"),
        ({"name": "x", "inner": {"size": "casual"}}, r"config\.inner\.size is 'casual'"),
        ({"name": "x", "inner": [1]}, r"config\.inner must hold named options"),
        ({"name": "x", "flags": {"on": "yes"}}, r"config\.flags\.on is 'yes'; it must be true or false"),
        ({"name": "x", "paths": "p"}, r"config\.paths is 'p'; it must be a list"),
        ({"name": "bad"}, r"config: name must not be bad"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_dict(Outer, given)


def test_overrides_and_references_are_applied(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: x\nmaybe: 4\ninner: {n_layers: '${maybe}', rate: 1e-3}\n")
    made = load_yaml(
        Outer, tmp_path / "a.yaml", ["maybe=6", "inner.kind=b", "paths=[a,b]", "inner.rate=2e-4"]
    )
    assert made == Outer("x", Inner(6, 2e-4, kind="b"), {}, ["a", "b"], 6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["maybe"], "'maybe' is not an override"),
        (["innr.kind=b"], r"a\.yaml\.innr is not a known option; did you mean inner\?"),
        (["maybe=${nothing}"], "nothing"),
        (["inner.kind=d"], r"a\.yaml\.inner\.kind is 'd'"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, overrides: list[str], said: str) -> None:
    (tmp_path / "a.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=said):
        load_yaml(Outer, tmp_path / "a.yaml", overrides)


def test_a_list_may_take_the_place_of_a_mapping_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("sets: []\nnamed: {clean: c.jsonl}\n")
    (tmp_path / "b.yaml").write_text("sets: {one: 1.jsonl}\n")
    overrides = [str(tmp_path / "b.yaml"), "sets={two: 2.jsonl}", "named=[d.jsonl, e.jsonl]"]
    assert load_mapping(tmp_path / "a.yaml", overrides) == {
        "sets": {"one": "1.jsonl", "two": "2.jsonl"},
        "named": ["d.jsonl", "e.jsonl"],
    }


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such configuration file"):
        load_mapping(tmp_path / "none.yaml")


def test_yaml_reads_numbers_as_people_write_them() -> None:
    assert parse_yaml("[1e-5, 1E5, 1.5e3, .5e1, 10, 1e]", "t") == [1e-5, 1e5, 1500.0, 5.0, 10, "1e"]
    assert parse_yaml("2020-01-01", "t") == "2020-01-01"
    assert parse_yaml("", "t") is None


def test_aliases_and_merges_of_an_honest_file_are_followed() -> None:
    text = "base: &base {a: 1}\nuse: {<<: *base, b: 2}\nlist: [*base, *base]\n"
    assert parse_yaml(text, "t") == {"base": {"a": 1}, "use": {"a": 1, "b": 2}, "list": [{"a": 1}, {"a": 1}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML"),
        ("[" * 100_000, "nested deeper than 100"),
        ("- " * 100_000, "nested deeper than 100"),
        ("a: !!python/tuple [1]", "YAML tag"),
        ("a: !env HOME", "YAML tag"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: b\n---\nc: d", "more than one YAML document"),
        ("a: 1\na: 2", "the key .a. twice"),
        ("a: *nothing", "stands for nothing"),
        ("<<: 3", "followed by mappings"),
        ("? [1, 2]\n: x", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        ("x" * (MAX_BYTES + 1), "more than any configuration"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_yaml(text, "t")


def test_what_is_written_has_no_aliases() -> None:
    shared = [1, 2]
    assert "&" not in dump_yaml({"a": shared, "b": shared})


def test_plain_scalars_are_read_as_pyyaml_reads_them() -> None:
    import yaml

    text = (
        "[~, null, yes, Off, 0, -12, +3, 0x1F, 010, 0b11, 1_000, 1.5, .5, 1., .inf, '1', \"~\", a b, -, +, .]"
    )
    assert parse_yaml(text, "t") == yaml.safe_load(text)


def test_a_key_may_be_the_text_of_a_merge() -> None:
    assert parse_yaml("'<<': 1\nx: ['<<', <<]\ny: <<", "t") == {"<<": 1, "x": ["<<", "<<"], "y": "<<"}


def test_a_second_yaml_file_takes_the_place_of_options_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("data: {size: 4, edges: [1, 2, 3], seed: 7}\n")
    second.write_text("data: {size: null, edges: [5]}\n")
    merged = load_mapping(first, [str(second), "data.seed=8"])
    assert merged == {"data": {"size": None, "edges": [5], "seed": 8}}
    with pytest.raises(ConfigError, match=r"missing\.yaml.* is not an override"):
        load_mapping(first, ["missing.yaml"])
