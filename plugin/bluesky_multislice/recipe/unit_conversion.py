"""Conversion of values to the units of scan fields."""

from collections.abc import Callable
from functools import cache
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.units import energy_ev_from_joule, energy_ev_from_wavelength

_FORMATS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("J", "eV"): energy_ev_from_joule,
    ("keV", "eV"): lambda energy: energy * 1e3,
    ("m", "eV"): energy_ev_from_wavelength,
    ("degree", "radian"): np.radians,
    ("urad", "radian"): lambda angle: angle * 1e-6,
    ("um", "m"): lambda length: length * 1e-6,
    ("mm", "m"): lambda length: length * 1e-3,
}
"""Conversions between the units that formats define and those of the fields. They need no pint, which takes time."""

_NAMES = {
    "m": {"meter", "micron", "angstrom"},
    "eV": {"electron_volt", "joule"},
    "radian": {"degree", "radian", "arcminute", "arcsecond", "turn"},
    "s": {"second", "minute", "hour"},
}
"""Unit → pint's names of units that instruments use for it, with any SI prefix. pint knows furlongs, and takes a bare
number for an angle: both are mistakes here."""

_SPELLINGS = {"kev": "keV", "ev": "eV", "gev": "GeV"}
"""Spellings of units that facilities write and pint does not know."""


def convert(value: float, unit: str, to: str) -> float:
    """Return ``value`` in another unit.

    Raises:
        ScanError: the unit is unknown or has another dimension.
    """
    return value * _factor(unit, to, f"{value!r} {unit}")


def to_field_unit(
    values: NDArray[np.float64], *, written: str, defined: str, unit: str, source: str
) -> NDArray[np.float64]:
    """Return values in the unit of a scan field.

    Args:
        values: the values.
        written: unit that stands beside the values, in any spelling that pint knows; empty: none.
        defined: unit that the format defines for this place. Energies may be wavelengths in metres, and wavelengths
            in any unit of length where no format defines the place.
        unit: unit of the field.
        source: field and place of the values, for errors.

    Raises:
        ScanError: the written unit is unknown or has another dimension than the defined one.
    """
    written = written.strip()
    if written in ("", defined):
        with np.errstate(divide="ignore"):
            return values if defined == unit else _FORMATS[defined, unit](values)
    if (defined, unit) == ("m", "eV") or (defined == unit == "eV" and _search_factor(written, "m")[0] is not None):
        in_metres = values * _factor(written, "m", f"{source} with the units {written!r}")
        return to_field_unit(in_metres, written="", defined="m", unit=unit, source=source)
    return values * _factor(written, unit, f"{source} with the units {written!r}")


def _factor(unit: str, to: str, got: str) -> float:
    """Return the factor between two units. ``got`` describes the value in the error."""
    factor, problem = _search_factor(unit, to)
    if factor is None:
        raise ScanError(
            f"A value must have a unit that converts to {to}.",
            got=f"{got}: {problem}.",
            remedy="correct the unit where it is recorded: the units attribute, the device's describe(), or the "
            "instrument file.",
        )
    return factor


@cache
def _search_factor(unit: str, to: str) -> tuple[float | None, str]:
    """Return the factor between two units, or why there is none."""
    # Imported here because jobs need no conversion, and pint takes time.
    import pint

    problems = list[str]()
    for spelling in dict.fromkeys((unit, _SPELLINGS.get(unit.lower(), unit.lower()))):
        try:
            quantity = _units().Quantity(1.0, spelling)
            factor = float(quantity.to(to).magnitude)
            names = {_units().parse_unit_name(name)[0][1] for name, _ in quantity.unit_items()}
            if to not in _NAMES or (names and names <= _NAMES[to]):
                return factor, ""
            problems.append("instruments do not use this unit")
        except (pint.errors.PintError, TokenError, AssertionError, ValueError, TypeError) as error:
            # pint raises different errors for units that it cannot parse: "m/" is an AssertionError.
            problems.append(str(error).rstrip(".") or "not a unit")
    return None, problems[0]


@cache
def _units() -> Any:
    import pint

    return pint.UnitRegistry()
