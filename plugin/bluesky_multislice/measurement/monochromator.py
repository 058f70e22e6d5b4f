"""Photon energy from the Bragg angle of a crystal monochromator."""

import re

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.units import HC_EV_M

_LATTICE_M = {"Si": 5.431020511e-10, "Ge": 5.6579e-10, "C": 3.56712e-10}
"""Lattice constants of cubic crystals at room temperature: Si from CODATA 2018, Ge and diamond from the International
Tables for Crystallography."""


def lattice_spacing_m(crystal: str) -> float:
    """Return the spacing of the lattice planes of a reflection, m.

    Args:
        crystal: material and Miller indices, such as ``Si 111``, ``Si(220)`` or ``Ge 3 1 1``.

    Raises:
        ValueError: the crystal is unknown.
    """
    parts = re.fullmatch(r"\s*([A-Z][a-z]?)[\s(]*(\d)[\s,]*(\d)[\s,]*(\d)[\s)]*", crystal)
    if parts is None or parts[1] not in _LATTICE_M or not any(int(parts[at]) for at in (2, 3, 4)):
        raise ValueError(f"unknown crystal {crystal!r}; write {', '.join(_LATTICE_M)} and indices, such as Si 111")
    return _LATTICE_M[parts[1]] / sum(int(parts[at]) ** 2 for at in (2, 3, 4)) ** 0.5


def bragg_energy_ev(angle_rad: NDArray[np.float64], crystal: str) -> NDArray[np.float64]:
    """Return the photon energy E = hc / (2 d sin θ), eV (Bragg's law in first order, without refraction).

    Args:
        angle_rad: () or (n,) Bragg angle θ between beam and lattice planes, rad. Its sign has no meaning.
        crystal: see ``lattice_spacing_m``.
    """
    with np.errstate(divide="ignore"):
        return HC_EV_M / (2 * lattice_spacing_m(crystal) * np.abs(np.sin(angle_rad)))
