"""A value of a scan as it was found, and what facilities write in place of a number or a word."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_multislice.errors import ScanError

PlaceKind = Literal["single", "rows", "baseline"]
"""Kind of place: one value for the scan, one value per stored frame, or readings before and after the scan."""

_SAME = 1e-3
"""Relative tolerance for a value that must not change during a scan."""


@dataclass(frozen=True, eq=False)
class FoundValue:
    """A value of a scan.

    Attributes:
        value: numbers () or (n,), float64, in the field's unit; a word; or an array of its own.
        source: where it was found, for errors and the provenance.
        place: kind of the place.
        path: path of the place in an instrument file; None: it has none.
        unit: unit of the number at this path.
    """

    value: Any
    source: str
    place: PlaceKind = "single"
    path: str | None = None
    unit: str | None = None


def as_numbers(raw: ArrayLike, name: str, source: str) -> NDArray[np.float64]:
    """Return () for one number, else (n,), from the forms in which facilities write numbers.

    Accepted are numbers in arrays of any shape, in a structured array with one column, and as text without a unit.

    Args:
        raw: the value as stored.
        name: name of the field in sentences.
        source: source of the value.

    Raises:
        ScanError: it is not a real number, or there is none.
    """
    try:
        array = _plain(raw)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        numbers = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ScanError(
            f"The {name} must be a number.",
            got=f"{raw!r} from {source}.",
            remedy="correct it there, or set it in the recipe's [scan] table.",
        ) from error
    return numbers.reshape(()) if numbers.size == 1 else numbers.ravel()


def as_word(raw: ArrayLike) -> str:
    """Return a word from bytes, text, an array of equal words, or MATLAB's array of character codes."""
    array = _plain(raw)
    if array.dtype.kind in "iu":
        return "".join(chr(code) for code in array.ravel() if 0 < code < 0x110000).strip()
    words = [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in array.ravel()]
    words = [word.strip(" \0") for word in words]
    if len(words) > 1 and all(len(word) == 1 for word in words):
        return "".join(words)
    return ", ".join(dict.fromkeys(words))


def constant(values: NDArray[np.float64], name: str, source: str) -> float:
    """Return the value of a quantity that must not change during a scan.

    Args:
        values: () or (n,) readings.
        name: name of the field in sentences.
        source: source of the values.

    Raises:
        ScanError: the readings differ, or there is none.
    """
    readings = np.ravel(values)
    if readings.size == 1:
        return float(readings[0])
    bad = np.flatnonzero(~np.isfinite(readings))
    if readings.size and not bad.size and np.ptp(readings) <= _SAME * np.abs(readings).max():
        return float(readings[0] if np.ptp(readings) == 0 else np.mean(readings))
    raise ScanError(
        f"The {name} must not change during a scan: a scan has a single value of {name}.",
        got=f"{_range_of(readings) if not bad.size else f'no number in row {bad[0]}'} from {source}.",
        remedy="write one number, or set it in the recipe's [scan] table.",
    )


def _range_of(readings: NDArray[np.float64]) -> str:
    return f"{len(readings)} values from {readings.min():g} to {readings.max():g}" if readings.size else "no value"


def _plain(raw: ArrayLike) -> NDArray:
    """Return an array without columns."""
    array = np.asarray(raw)
    if array.dtype.names is not None and len(array.dtype.names) == 1:
        array = array[array.dtype.names[0]]
    return array
