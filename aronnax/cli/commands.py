"""Commands of the shell out of typed functions: parameters annotated with `Argument` or `Option` become click's.

A verb stays a function that Python can call and the type checker can read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import click

WIDTH = 100
"""Columns of a help page, on a terminal that has them."""


@dataclass(frozen=True)
class Argument:
    """A positional argument; a list takes what is left of the command line."""

    help: str
    metavar: str | None = None


class Option:
    """An option; without names it is called as its parameter, and a list may be given several times.

    `alone` is the value of an option that stands without one.
    """

    def __init__(self, *names: str, help: str, alone: str | None = None) -> None:
        self.names = names
        self.help = help
        self.alone = alone


def command(function: Callable[..., None]) -> click.Command:
    """The click command that calls `function`; its docstring is the manual."""
    signature = inspect.signature(function, eval_str=True)
    return _Command(
        function.__name__,
        callback=function,
        params=[_parameter(parameter) for parameter in signature.parameters.values()],
        help=inspect.getdoc(function),
        context_settings={"max_content_width": WIDTH},
    )


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
    names = mark.names or (f"--{parameter.name.replace('_', '-')}",)
    if kind is bool:
        del shared["type"]
        return click.Option(
            [*names, parameter.name], is_flag=True, help=mark.help, **{"default": None, **shared}
        )
    if mark.alone is not None:
        shared |= {"is_flag": False, "flag_value": mark.alone}
    return click.Option([*names, parameter.name], multiple=many, show_default=True, help=mark.help, **shared)


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
    """A command whose help page explains its arguments too; lists that were not given are None."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params = {
            name: (list(value) or None) if isinstance(value, tuple) else value
            for name, value in ctx.params.items()
        }
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [
            (one.make_metavar(ctx), one.manual) for one in self.get_params(ctx) if isinstance(one, _Argument)
        ]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)
