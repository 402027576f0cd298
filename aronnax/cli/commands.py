"""Commands of the shell out of typed functions: parameters annotated with `Argument` or `Option` become click's.

A verb stays a function that Python can call and the type checker can read.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import click

from aronnax.core.errors import ConfigError, OptionError

WIDTH = 100
"""Columns of a help page, on a terminal that has them."""
# `beam=0` or `channels='left'` in a message, but neither `--out=x` nor `optim.lr=1`.
_ASSIGNED = re.compile(r"(?<![\w.-])([a-z_]+)=('[^'\s]*'|[^'\s,;:()]+)")


@dataclass(frozen=True)
class Argument:
    """A positional argument; a list takes what is left of the command line."""

    help: str
    metavar: str | None = None


class Option:
    """An option; without names it is called as its parameter, and a list may be given several times.

    `alone` is the value of an option that stands without one, `python` what calls of Python name it where that is
    another name than the parameter's.
    """

    def __init__(self, *names: str, help: str, alone: str | None = None, python: str | None = None) -> None:
        self.names = names
        self.help = help
        self.alone = alone
        self.python = python


def command(function: Callable[..., None]) -> click.Command:
    """The click command that calls `function`; its docstring is the manual."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    made = _Command(
        function.__name__,
        callback=function,
        params=[_parameter(parameter) for parameter in parameters],
        help=inspect.getdoc(function),
        context_settings={"max_content_width": WIDTH},
    )
    for parameter in parameters:
        mark = get_args(parameter.annotation)[1]
        if isinstance(mark, Option):
            made.typed[mark.python or parameter.name] = _names(parameter.name, mark)[0].partition("/")[0]
    return made


def given(function: Callable[..., None], values: Mapping[str, Any]) -> list[str]:
    """Names of the parameters of `function` whose values are not its defaults, written as on the command line.

    >>> def greet(name: str, at_most: int = 3) -> None: ...
    >>> given(greet, {"name": "Ned", "at_most": 3}), given(greet, {"at_most": 4})
    (['--name'], ['--at-most'])
    """
    known = inspect.signature(function).parameters
    return [f"--{name.replace('_', '-')}" for name, value in values.items() if value != known[name].default]


def _parameter(parameter: inspect.Parameter) -> click.Parameter:
    annotated, mark = get_args(parameter.annotation)
    kind, many = _kind(annotated)
    required = parameter.default is inspect.Parameter.empty
    shared: dict[str, Any] = {"required": required, "type": kind}
    if not required and parameter.default is not None:
        shared["default"] = parameter.default
    if isinstance(mark, Argument):
        name = mark.metavar or parameter.name.upper()
        name = f"{name}..." if many else name
        shared["metavar"] = name if required else f"[{name}]"
        made = _Argument([parameter.name], nargs=-1 if many else 1, **shared)
        made.manual = mark.help
        return made
    names = _names(parameter.name, mark)
    if kind is bool:
        del shared["type"]
        return click.Option(
            [*names, parameter.name], is_flag=True, help=mark.help, **{"default": None, **shared}
        )
    if mark.alone is not None:
        shared |= {"is_flag": False, "flag_value": mark.alone}
    return click.Option([*names, parameter.name], multiple=many, show_default=True, help=mark.help, **shared)


def _names(parameter: str, mark: Option) -> tuple[str, ...]:
    return mark.names or (f"--{parameter.replace('_', '-')}",)


def _kind(annotated: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be many."""
    if get_origin(annotated) is UnionType:
        (annotated,) = (one for one in get_args(annotated) if one is not NoneType)
    many = get_origin(annotated) is list
    if many:
        (annotated,) = get_args(annotated)
    return (annotated if annotated in (str, int, float, bool) else click.Path(path_type=annotated)), many


class _Argument(click.Argument):
    """An argument with a line in the help page, which click's own need not have."""

    manual = ""


class _Command(click.Command):
    """A command whose help page explains its arguments too; lists that were not given are None.

    Errors name options as they are typed: what Python calls `num_speakers=9` is `--speakers 9` here.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.typed: dict[str, str] = {}
        """Python's name of an option -> the one on the command line."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = {
            name: (list(value) or None) if isinstance(value, tuple) else value
            for name, value in ctx.params.items()
        }
        try:
            return super().invoke(ctx)
        except (OptionError, ConfigError) as error:
            raise type(error)(_ASSIGNED.sub(self._as_typed, str(error))) from error

    def _as_typed(self, assigned: re.Match[str]) -> str:
        name, value = assigned[1], assigned[2].strip("'")
        return f"{self.typed[name]} {value}" if name in self.typed else assigned[0]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [
            (one.make_metavar(ctx), one.manual) for one in self.get_params(ctx) if isinstance(one, _Argument)
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)
