"""Instrument file: place and unit of each value of a scan at a facility.

Values are looked up in the recipe's ``[scan]`` table, the scan itself and the instrument file, in this order. Every
value keeps its source.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bluesky_multislice.errors import ScanError


class FieldPlace(BaseModel):
    """Place of one value: a path in the scan's documents or a fixed value, with its unit.

    ``path`` is ``start:KEY.SUBKEY``, ``baseline:DATA_KEY``, ``primary:DATA_KEY`` or
    ``configuration:DEVICE.KEY`` for Bluesky runs. For ``darks`` and ``flats`` it is ``STREAM:DATA_KEY``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str | None = Field(default=None, description="Place of the value in the run's documents.")
    value: float | str | None = Field(
        default=None, description="Fixed value, for a value that the instrument does not record."
    )
    unit: str | None = Field(default=None, description="Unit of the value, such as keV, mm or degree.")

    @model_validator(mode="after")
    def _one_place(self) -> "FieldPlace":
        if (self.path is None) == (self.value is None):
            raise ValueError("set exactly one of path and value")
        return self


class Instrument(BaseModel):
    """An instrument file. Its field names are those of ``scan_fields``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(default="unnamed", description="Name of the beamline.")
    fields: Mapping[str, FieldPlace] = Field(default_factory=dict, description="Place of each field of a scan.")

    @model_validator(mode="after")
    def _known_fields(self) -> "Instrument":
        known = scan_fields()
        unknown = sorted(set(self.fields) - set(known))
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        return self


_FIELDS: dict[str, str | None] = {
    "technique": None,
    "regime": None,
    "energy": "eV",
    "distance": "m",
    "pixel_size": "m",
    "focus_distance": "m",
    "source_size": "m",
    "divergence": "radian",
    "orientation": None,
    "saturation": None,
    "angle": "radian",
    "position_x": "m",
    "position_y": "m",
    "frames": None,
    "exposure": "s",
    "darks": None,
    "flats": None,
    "dark_run": None,
    "flat_run": None,
}
"""Field of scans of any technique → its unit. Positions are the sample's translation, as in CXI."""


def scan_fields() -> dict[str, str | None]:
    """Return the fields of a scan with their units (None: no unit), including those of a single technique."""
    # Imported here because models import PyTorch, which options and their help do not need.
    from bluesky_multislice.models import technique_fields

    return _FIELDS | {name: field.unit for name, field in technique_fields().items()}


def read_instrument(path: Path) -> Instrument:
    """Read an instrument file.

    Raises:
        ScanError: the file is missing, is not valid TOML, or has unknown fields.
    """
    try:
        return Instrument.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ScanError(
            "An instrument file must be readable TOML with known fields.",
            got=f"{path}: {error}.",
            remedy="correct it; see the examples in deploy/instruments/.",
        ) from error


def convert(value: float, unit: str, to: str) -> float:
    """Return ``value`` in another unit.

    Raises:
        ScanError: the unit is unknown or has another dimension.
    """
    # Imported here because jobs need no conversion, and pint takes time.
    import pint

    try:
        return float(_units().Quantity(value, unit).to(to).magnitude)
    except (pint.errors.PintError, TokenError, AssertionError, ValueError, TypeError) as error:
        # pint raises different errors for units that it cannot parse: "m/" is an AssertionError, "2 mm" a ValueError.
        raise ScanError(
            f"A value must have a unit that converts to {to}.",
            got=f"{value!r} {unit}: {error}.",
            remedy="correct the unit in the instrument file or in the device's describe().",
        ) from error


@cache
def _units() -> Any:
    import pint

    return pint.UnitRegistry()
