"""Command-line options, made from the fields of the recipe class."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from bluesky_multislice.recipe import (
    FrameProcessing,
    Recipe,
    Refine,
    Resources,
    ScanValues,
    Schedules,
    make_recipe,
    read_recipe,
)

_TABLES = {
    "scan": (ScanValues, ""),
    "frames": (FrameProcessing, "frames_"),
    "refine": (Refine, "refine_"),
    "resources": (Resources, "resources_"),
}
"""Table of the recipe → its class and the prefix of its options."""


def recipe_options(command: Callable) -> Callable:
    """Add ``--recipe FILE`` and one option per field of the recipe to a click command."""
    fields = {name: field for name, field in Recipe.model_fields.items() if name not in _TABLES}
    for table, prefix in _TABLES.values():
        fields |= {prefix + name: field for name, field in table.model_fields.items()}
    for name, field in reversed(fields.items()):
        command = _option(name, field)(command)
    return click.option(
        "--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file with any of these settings."
    )(command)


def scan_options(command: Callable) -> Callable:
    """Add one option per field of the recipe's ``[scan]`` table to a click command."""
    for name, field in reversed(ScanValues.model_fields.items()):
        command = _option(name, field)(command)
    return command


def collect_recipe(
    recipe_file: Path | None, options: dict[str, Any], of_run: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the recipe from a file and the command line. Command-line options override the file.

    Args:
        recipe_file: TOML file; None: no file.
        options: option → value; None or () if the option was not given.
        of_run: recipe in the start document of a run, which both override; None: no run.

    Raises:
        RecipeError: a field is unknown, or a value is out of range.
    """
    values = _merged(dict(of_run or {}), read_recipe(recipe_file) if recipe_file else {})
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name, (table, prefix) in _TABLES.items():
        overrides = {field: given.pop(prefix + field) for field in table.model_fields if prefix + field in given}
        if overrides and isinstance(values.get(name, {}), dict):
            given[name] = _merged(values.get(name, {}), overrides)
    origin = "the command line" if recipe_file is None else f"{recipe_file} and the command line"
    return make_recipe(_merged(values, given), origin=origin)


def _option(name: str, field: FieldInfo) -> Callable:
    flag = "--" + name.replace("_", "-")
    kind = next(part for part in _parts(field.annotation) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=field.description)
    if get_origin(kind) is tuple:
        names = get_args(get_args(kind)[0])
        return click.option(flag, name, type=click.Choice(names), multiple=True, help=field.description)
    if kind is Schedules:
        return click.option(
            flag,
            name,
            type=(click.Choice(list(Schedules.model_fields)), click.Choice(("from_epoch", "strength", "bound")), float),
            multiple=True,
            metavar="NAME FIELD NUMBER",
            callback=lambda context, option, rows: _nested(rows) or None,
            help=field.description,
        )
    if get_origin(kind) is dict and get_origin(get_args(kind)[1]) is dict:
        return click.option(
            flag,
            name,
            type=(str, str, float),
            multiple=True,
            metavar="NAME PARAMETER NUMBER",
            callback=lambda context, option, rows: _nested(rows) or None,
            help=field.description,
        )
    if get_origin(kind) is dict:
        return click.option(
            flag,
            name,
            type=(str, float),
            multiple=True,
            metavar="NAME NUMBER",
            callback=lambda context, option, pairs: dict(pairs) or None,
            help=field.description,
        )
    choice = click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
    return click.option(flag, name, type=choice, help=field.description)


def _nested(rows: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for name, field, number in rows:
        nested.setdefault(name, {})[field] = number
    return nested


def _merged(table: Any, overrides: dict[str, Any]) -> Any:
    """Return a table with overridden values. Nested tables are merged recursively."""
    if not isinstance(table, dict):
        return table
    nested = {
        name: _merged(table[name], value)
        for name, value in overrides.items()
        if isinstance(value, dict) and isinstance(table.get(name), dict)
    }
    return table | overrides | nested


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
