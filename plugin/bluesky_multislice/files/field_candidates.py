"""Suggests places of a field that a scan does not record where it is searched."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import ScanField
from bluesky_multislice.recipe import FieldPlace, convert

_MOST = 4
"""Largest number of suggestions for one field."""


@dataclass(frozen=True)
class StoredValue:
    """Anything that a scan stores: a dataset of a file, a data key or an entry of a document.

    Attributes:
        path: path in an instrument file.
        shape: shape; of a data key with the events as first axis.
        kind: numpy's kind of the type: ``f``, ``i``, ``u``, ``b``, ``c``; ``U`` for text.
        unit: unit as stored; empty: none.
        value: the value, if it is a single number or word; None: it was not read.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    unit: str = ""
    value: float | str | None = None

    @property
    def text(self) -> str:
        """Path, and value or shape, with the unit."""
        content = f"shape {self.shape}" if self.value is None else f"{self.value}"
        return f"{self.path} = {content} {self.unit}".rstrip()

    def as_place(self, field: ScanField) -> FieldPlace:
        """Return the place in an instrument file; without a unit of its own it gets the unit of the field."""
        return FieldPlace(path=self.path, unit=(self.unit or field.unit) if field.kind == "number" else None)


def suggest_places(
    field: ScanField, stored: Iterable[StoredValue], *, views: int, frame: tuple[int, int] | None, needed: bool
) -> tuple[StoredValue, ...]:
    """Return the stored values that may be a field, by shape, unit and name, the best first.

    Args:
        field: the field.
        stored: everything that the scan stores.
        views: number of stored frames; 0: unknown.
        frame: shape of a frame; None: unknown.
        needed: whether the scan cannot be used without the field. Only then a unit of energy or angle is enough.
    """
    scores = {one: _score(field, one) for one in stored if _fits(field, one, views, frame)}
    named = [one for one, score in scores.items() if score >= 2]
    telling = needed and field.unit in ("eV", "radian")
    found = named if named or not telling else [one for one, score in scores.items() if score == 1]
    return tuple(sorted(found, key=lambda one: -scores[one])[:_MOST])


def _fits(field: ScanField, stored: StoredValue, views: int, frame: tuple[int, int] | None) -> bool:
    """Return whether shape and type are those of the field."""
    shape = stored.shape
    if field.kind == "word":
        return stored.kind == "U" and math.prod(shape) == 1
    if field.name == "frames":
        return stored.kind in "iuf" and len(shape) in (3, 4) and min(shape[-2:]) > 1
    if field.name == "mask":
        return stored.kind in "biuf" and shape[-2:] == frame and math.prod(shape[:-2]) == 1
    if field.kind == "other" or stored.kind not in "iuf":
        return False
    rows = shape[0] if shape else 1
    if field.column is not None and len(shape) == 2 and shape[1] in (2, 3):
        return rows > 1 and views in (0, rows)
    if len(shape) > 1 and math.prod(shape) > 1:
        return False
    single, each = math.prod(shape) == 1, field.per_view and rows > 1 and views in (0, rows)
    return each or (single and field.column is None)


def _score(field: ScanField, stored: StoredValue) -> int:
    """Return 2 for a name, and 1 for a unit, that suggests the field; −1 for a unit that contradicts it.

    The shape alone suggests frames.
    """
    words = stored.path.lower().rpartition(":")[2].split("/")[-2:]
    named = any(part in word for word in words for part in (field.name_parts or (field.name,)))
    if field.name == "frames":
        return 2 + named
    if field.unit is None or not stored.unit:
        return 2 * named
    return 2 * named + 1 if _converts(field, stored.unit) else -1


def _converts(field: ScanField, unit: str) -> bool:
    for to in (field.unit, "m") if field.unit == "eV" else (field.unit,):
        try:
            convert(1.0, unit, str(to))
        except ScanError:
            continue
        return True
    return False
