"""Reads TOML files into models, with errors that name the wrong field."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bluesky_multislice.errors import MultisliceError

_Model = TypeVar("_Model", bound=BaseModel)


def read_toml(path: Path, model: type[_Model], error: type[MultisliceError], *, rule: str, remedy: str) -> _Model:
    """Read a TOML file into a model.

    Args:
        path: the file.
        model: the model.
        error: the error to raise.
        rule: its rule.
        remedy: its remedy.

    Raises:
        MultisliceError: ``error``: the file is missing, is not TOML, or does not suit the model.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as problem:
        raise error(rule, got=f"{path}: {_text(problem)}.", remedy=remedy) from problem


def _text(problem: Exception) -> str:
    if not isinstance(problem, ValidationError):
        return str(problem)
    faults = ((".".join(map(str, fault["loc"])), fault["msg"]) for fault in problem.errors())
    return "; ".join(f"{place}: {message}" if place else message for place, message in faults)
