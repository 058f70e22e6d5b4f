"""Values that a scan can hold but hardly means: refused where nothing can come of them, else said as warnings."""

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement.geometry import ScanGeometry
from bluesky_multislice.units import ELEMENTARY_CHARGE_C

_ENERGIES_EV = (30.0, 3e5)
"""Photon energies from extreme ultraviolet light to hard X-rays."""

_MISTAKES = (
    (1e3, "keV where eV belongs"),
    (1e-3, "a value a thousand times too large"),
    (ELEMENTARY_CHARGE_C, "eV where joule belongs"),
    (1e3 * ELEMENTARY_CHARGE_C, "keV where joule belongs"),
)
"""Factor that puts a mistaken energy in eV right, and the mistake."""

_OFF_CENTRE_PIXELS = 3
"""Distance of a pattern's centre of mass from the detector's centre that a probe's own asymmetry rarely reaches."""

_OFF_PROBE_PIXELS = 1
"""The same from where a known probe's light belongs, which a sample's edges move little on average."""

_SMALL_SPAN_RAD = np.pi / 2 - 1e-3


def energy_problem(energy_ev: float) -> str | None:
    """Return why a photon energy in eV cannot be meant, and what it looks like; None where it can."""
    least, most = _ENERGIES_EV
    if least <= energy_ev <= most:
        return None
    doubt = f"{energy_ev:g} eV is not between {least:g} and {most:g} eV"
    for factor, mistake in _MISTAKES:
        if 100 <= energy_ev * factor <= most:
            return f"{doubt}; it looks like {mistake}: {energy_ev * factor:g} eV would be possible"
    return doubt


def check_energy(energy_ev: float, *, source: str) -> None:
    """Refuse a photon energy that no X-ray instrument has.

    Args:
        energy_ev: the energy.
        source: where it came from.

    Raises:
        ScanError: it is out of range; the error says so where a unit looks mistaken.
    """
    doubt = energy_problem(energy_ev)
    if doubt is not None:
        raise ScanError(
            "The photon energy must be one of X-rays, in the unit of its place.",
            got=f"{doubt}; from {source}.",
            remedy="correct the value or its unit there, or give energy_ev in the recipe's [scan] table.",
        )


def position_warnings(geometry: ScanGeometry) -> list[str]:
    """Return what is odd about the positions of a scan whose views should overlap.

    Raises:
        ScanError: no frame's window overlaps with another one of its angle.
    """
    window = np.array(geometry.detector.shape) * np.array(geometry.object_pixel_m)
    nearest = _nearest_neighbours(geometry, window)
    compared = np.isfinite(nearest)
    if not compared.any():
        return ["one position an angle: without overlap the frames hardly tell probe and sample apart"]
    alone = np.flatnonzero(nearest >= 1)
    if len(alone) == compared.sum():
        raise ScanError(
            "The windows of neighbouring positions must overlap.",
            got=f"no two of {geometry.views} views of one angle do: neighbours lie {np.median(nearest[compared]):.3g} "
            f"windows of {window[0]:.3g} by {window[1]:.3g} m apart{_unit_of(nearest[compared])}.",
            remedy="correct the positions' unit, or the distance, pixel size and energy that set the window.",
        )
    if nearest[compared].max() * window.min() < 0.1 * min(geometry.object_pixel_m):
        return ["the positions of an angle differ by less than a tenth of a pixel: check their unit"]
    if len(alone):
        return [f"{len(alone)} views overlap with no other one of their angle, the first is view {alone[0]}"]
    return []


def angle_warnings(geometry: ScanGeometry) -> list[str]:
    """Return what is odd about the range of the angles; none for a scan of one angle."""
    span = float(np.ptp(geometry.angle_rad))
    if 0 < span < _SMALL_SPAN_RAD:
        unit = "; are they radians given as degrees?" if 0.04 < span < 0.12 else ""
        return [f"the angles span {np.degrees(span):.3g}° only: the volume is blurred along the beam{unit}"]
    if span > 20 * np.pi:
        return [f"the angles span {span / (2 * np.pi):.3g} turns: are they degrees given as radians?"]
    return []


def pattern_warnings(
    geometry: ScanGeometry, mean_frame: NDArray[np.floating], probe: NDArray[np.complexfloating] | None = None
) -> list[str]:
    """Return what is odd about the mean far-field pattern: light whose centre of mass is not where it belongs.

    Args:
        geometry: the scan.
        mean_frame: (y, x), zero where masked.
        probe: (mode, y, x), no larger than a frame; None takes the detector's centre for that of its light.
    """
    if geometry.detector.regime != "far_field":
        return []
    offset, there, most = _centre_of_mass(mean_frame), "detector's centre", _OFF_CENTRE_PIXELS
    if probe is not None:
        light = np.abs(np.fft.fftshift(np.fft.fft2(probe, s=mean_frame.shape), axes=(-2, -1))) ** 2
        offset = offset - _centre_of_mass(light.sum(0) * (mean_frame > 0))
        there, most = "probe's", _OFF_PROBE_PIXELS
    if np.hypot(offset[0], offset[1]) <= most:
        return []
    return [
        f"the mean pattern's centre of mass lies {offset[0]:+.1f} pixels in y and {offset[1]:+.1f} in x from the "
        f"{there}: crop the frames around the direct beam"
    ]


def _centre_of_mass(frame: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the (y, x) of a frame's light, pixels from the detector's centre."""
    profiles = [(frame.sum(1 - axis), np.arange(n) - n // 2) for axis, n in enumerate(frame.shape)]
    return np.array([float((light * at).sum()) / float(light.sum()) for light, at in profiles])


def _nearest_neighbours(geometry: ScanGeometry, window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (view,) the distance to the nearest other view of the angle, in windows; infinite where there is none."""
    # SciPy takes a while to import, which those who only want the options' names need not wait for.
    from scipy.spatial import KDTree

    nearest = np.full(geometry.views, np.inf)
    for angle in np.unique(geometry.angle_rad):
        members = np.flatnonzero(geometry.angle_rad == angle)
        if len(members) > 1:
            places = geometry.position_m[members] / window
            nearest[members] = KDTree(places).query(places, k=2, p=np.inf)[0][:, 1]
    return nearest


def _unit_of(nearest: NDArray[np.float64]) -> str:
    for factor in (1e3, 1e6):
        if 0.001 < np.median(nearest) / factor < 1:
            return f"; divided by {factor:g} they would overlap"
    return ""
