"""Plausibility checks of a scan's values: errors for impossible values, warnings for unusual ones."""

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement.geometry import ScanGeometry
from bluesky_multislice.units import ELEMENTARY_CHARGE_C

_ENERGIES_EV = (30.0, 3e5)
"""Range of photon energies, from extreme ultraviolet to hard X-rays."""

_MISTAKES = (
    (1e3, "keV where eV belongs"),
    (1e-3, "a value a thousand times too large"),
    (ELEMENTARY_CHARGE_C, "eV where joule belongs"),
    (1e3 * ELEMENTARY_CHARGE_C, "keV where joule belongs"),
)
"""Factor that corrects a wrong energy in eV, and the mistake."""

_OFF_CENTRE_PIXELS = 3
"""Largest plausible distance of the mean pattern's centre of mass from the detector's centre, for an unknown probe."""

_OFF_PROBE_PIXELS = 1
"""Largest plausible distance of the mean pattern's centre of mass from that of a known probe's pattern."""

_SMALL_SPAN_RAD = np.pi / 2 - 1e-3


def energy_problem(energy_ev: float) -> str | None:
    """Return why a photon energy in eV is implausible, and the probable mistake; None if it is plausible."""
    lowest, highest = _ENERGIES_EV
    if lowest <= energy_ev <= highest:
        return None
    problem = f"{energy_ev:g} eV is not between {lowest:g} and {highest:g} eV"
    for factor, mistake in _MISTAKES:
        if 100 <= energy_ev * factor <= highest:
            return f"{problem}; it looks like {mistake}: {energy_ev * factor:g} eV would be possible"
    return problem


def check_energy(energy_ev: float, *, source: str) -> None:
    """Check that a photon energy is in the range of X-ray instruments.

    Args:
        energy_ev: the energy.
        source: source of the value.

    Raises:
        ScanError: the energy is out of range; the error names a probable mistake in the unit.
    """
    problem = energy_problem(energy_ev)
    if problem is not None:
        raise ScanError(
            "The photon energy must be in the range of X-rays.",
            got=f"{problem}; from {source}.",
            remedy="correct the value or its unit there, or set energy_ev in the recipe's [scan] table.",
        )


def position_warnings(geometry: ScanGeometry) -> list[str]:
    """Return warnings about the positions of a scan whose views should overlap.

    Raises:
        ScanError: no window overlaps with another window of the same angle.
    """
    window = np.array(geometry.detector.shape) * np.array(geometry.object_pixel_m)
    nearest = _nearest_neighbours(geometry, window)
    compared = np.isfinite(nearest)
    if not compared.any():
        return ["one position per angle: without overlap the frames hardly separate probe and sample"]
    alone = np.flatnonzero(nearest >= 1)
    if len(alone) == compared.sum():
        raise ScanError(
            "The windows of neighbouring positions must overlap.",
            got=f"no overlap among {geometry.views} views: neighbours of one angle are "
            f"{np.median(nearest[compared]):.3g} windows of {window[0]:.3g} by {window[1]:.3g} m apart"
            f"{_unit_hint(nearest[compared])}.",
            remedy="correct the positions' unit, or the distance, pixel size and energy that set the window.",
        )
    if nearest[compared].max() * window.min() < 0.1 * min(geometry.object_pixel_m):
        return ["the positions of an angle differ by less than a tenth of a pixel: check their unit"]
    if len(alone):
        return [f"{len(alone)} views overlap with no other view of their angle, the first is view {alone[0]}"]
    return []


def angle_warnings(geometry: ScanGeometry) -> list[str]:
    """Return warnings about the range of the angles; none for a scan with one angle."""
    span = float(np.ptp(geometry.angle_rad))
    if 0 < span < _SMALL_SPAN_RAD:
        unit = "; are they radians given as degrees?" if 0.04 < span < 0.12 else ""
        return [f"the angles span {np.degrees(span):.3g}° only: the volume is blurred along the beam{unit}"]
    if span > 20 * np.pi:
        return [f"the angles span {span / (2 * np.pi):.3g} rotations: are they degrees given as radians?"]
    return []


def pattern_warnings(
    geometry: ScanGeometry, mean_frame: NDArray[np.floating], probe: NDArray[np.complexfloating] | None = None
) -> list[str]:
    """Return warnings about the centre of mass of the mean far-field pattern.

    Args:
        geometry: the scan.
        mean_frame: (y, x), zero in masked pixels.
        probe: (mode, y, x), no larger than a frame; None: compare with the detector's centre.
    """
    if geometry.detector.regime != "far_field":
        return []
    offset, reference, limit = _centre_of_mass(mean_frame), "detector's centre", _OFF_CENTRE_PIXELS
    if probe is not None:
        pattern = np.abs(np.fft.fftshift(np.fft.fft2(probe, s=mean_frame.shape), axes=(-2, -1))) ** 2
        offset = offset - _centre_of_mass(pattern.sum(0) * (mean_frame > 0))
        reference, limit = "probe's", _OFF_PROBE_PIXELS
    if np.hypot(offset[0], offset[1]) <= limit:
        return []
    return [
        f"the mean pattern's centre of mass is {offset[0]:+.1f} pixels in y and {offset[1]:+.1f} in x from the "
        f"{reference}: centre the frames on the direct beam with frames.centre = auto"
    ]


def _centre_of_mass(frame: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the centre of mass (y, x) of a frame, in pixels from the detector's centre."""
    profiles = [(frame.sum(1 - axis), np.arange(n) - n // 2) for axis, n in enumerate(frame.shape)]
    return np.array([float((profile * position).sum()) / float(profile.sum()) for profile, position in profiles])


def _nearest_neighbours(geometry: ScanGeometry, window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (view,) the distance to the nearest other view of the same angle, in windows; infinite without one."""
    # Imported here because importing SciPy is slow, and listing the options does not need it.
    from scipy.spatial import KDTree

    nearest = np.full(geometry.views, np.inf)
    for angle in np.unique(geometry.angle_rad):
        members = np.flatnonzero(geometry.angle_rad == angle)
        if len(members) > 1:
            positions = geometry.position_m[members] / window
            nearest[members] = KDTree(positions).query(positions, k=2, p=np.inf)[0][:, 1]
    return nearest


def _unit_hint(nearest: NDArray[np.float64]) -> str:
    for factor in (1e3, 1e6):
        if 0.001 < np.median(nearest) / factor < 1:
            return f"; divided by {factor:g} they would overlap"
    return ""
