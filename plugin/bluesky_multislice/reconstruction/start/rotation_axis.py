"""Search for the rotation axis in holograms, by the sharpness of back-projected thin-sample phases.

For few angles, the centre of mass must confirm the result.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize
from torch import Tensor

from bluesky_multislice.measurement import AXIS_REACH, Scan, ScanGeometry
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, angles_determine_axis
from bluesky_multislice.reconstruction.start.back_projection import angle_weights, back_project
from bluesky_multislice.reconstruction.start.first_volume import AngleHolograms, by_contrast_transfer, load_holograms

_BANDS = 8
"""Bands of rows whose phases are evaluated; odd and even bands must agree."""

_RATIO = 0.1
"""β/δ of the retrieval; the sharpness hardly depends on it."""

_MOST_MOTION = 4.2
"""Binned pixels along x times the largest angular step in radians; determines the binning factor.

A detail at the edge moves by half of this between angles. For larger motion, the sharpness is unreliable: with twice
the value the axis was off by 3 pixels, with this value by 0.1.
"""

_DETAILS = 10
"""Details larger than the width over this number are filtered out, because their thin-sample phase is wrong."""

_LEAST_PIXELS = 0.1
"""Smaller shifts of the axis are ignored."""

_AGREEMENT_PIXELS = 1.0
"""Largest difference between the axes of odd and even bands."""

_METHODS_AGREE_PIXELS = 0.5
"""Largest difference between the axes from sharpness and centre of mass, for few angles.

Of 48 scans with 8 to 32 angles, 16 pass; the mean of both is then off by at most 0.23 pixels, sharpness alone by up to
9.
"""


def find_axis_pixels(
    scan: Scan, plan: Plan, probe: Tensor, scale: float, mesh: Mesh, views: NDArray[np.intp] | None = None
) -> float | None:
    """Return the shift of the axis along x from the scan's axis, in pixels of the volume; None if it is not found.

    Back-projection about the correct axis maximises the sum of squares, because the projections of a detail meet in one
    place, above all those that differ by π. The sample may be larger than the frames, except for few angles
    (``angles_determine_axis``): then its centre of mass must give the same axis, and the mean of both is returned. All
    views are used, including validation views, because a missing angle would leave a gap and only one number is fitted.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        probe: complex (mode, y, x), in the square root of the frames' units over ``scale``.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
        views: views to use, of all ranks; None: all views.
    """
    holograms = load_holograms(
        scan, plan, np.arange(scan.geometry.views) if views is None else views, probe, scale, mesh
    )
    angles_rad = np.unique(scan.geometry.angle_rad if views is None else scan.geometry.angle_rad[views])
    phases = _phases_in_bands(holograms, scan.geometry, plan, mesh, angles_rad)
    axis = _axis_from_sharpness(phases, angles_rad)
    halves = [_axis_from_sharpness(phases[:, part::2], angles_rad) for part in (0, 1)]
    if abs(halves[0] - halves[1]) > _AGREEMENT_PIXELS or abs(axis) >= phases.shape[-1] / AXIS_REACH:
        return None
    if not angles_determine_axis(scan.geometry):
        centre_of_mass = _axis_from_centre_of_mass(phases, angles_rad)
        if abs(centre_of_mass - axis) > _METHODS_AGREE_PIXELS:
            return None
        axis = (centre_of_mass + axis) / 2
    return axis if abs(axis) >= _LEAST_PIXELS else 0.0


def _phases_in_bands(
    holograms: Iterator[AngleHolograms],
    geometry: ScanGeometry,
    plan: Plan,
    mesh: Mesh,
    angles_rad: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the projected phases (angle, band, x) of all ranks' angles, averaged over the rows of each band."""
    _, height, width = plan.grid.shape
    bands = min(_BANDS, height)
    phases = torch.zeros(len(angles_rad), bands, width)
    for own in holograms:
        phase = by_contrast_transfer(own, geometry, plan.grid, _RATIO)
        rows = phase[: height // bands * bands].unflatten(0, (bands, -1)).mean(1)
        phases[np.searchsorted(angles_rad, own.angle_rad)] = rows
    phases = phases.to(mesh.device)
    mesh.sum(phases)
    return phases.cpu().numpy()


def _axis_from_centre_of_mass(phases: NDArray[np.float32], angles_rad: NDArray[np.float64]) -> float:
    """Return the axis about which the centre of mass rotates, in pixels along x from the centre.

    If projections contain the whole sample, the centre of mass is a sine of the angle, with its mean at the axis.
    """
    lines, width = phases.mean(1), phases.shape[-1]
    centres = lines @ (np.arange(width) - (width - 1) / 2) / lines.sum(-1)
    basis = np.stack([np.ones_like(angles_rad), np.cos(angles_rad), np.sin(angles_rad)], axis=-1)
    return float(np.linalg.lstsq(basis, centres, rcond=None)[0][0])


def _axis_from_sharpness(phases: NDArray[np.float32], angles_rad: NDArray[np.float64]) -> float:
    """Return the axis with the sharpest back-projection, in pixels along x from the centre."""
    folded = np.sort(angles_rad % np.pi)
    largest_step = np.diff(folded, append=folded[0] + np.pi).max()
    factor = int(np.ceil(phases.shape[-1] * largest_step / _MOST_MOTION - 1e-3))
    width = phases.shape[-1] // factor
    binned = phases[..., : width * factor].reshape(*phases.shape[:2], width, factor).mean(-1)
    details = binned - ndimage.gaussian_filter1d(binned, width / _DETAILS, axis=-1, mode="nearest")
    # The field is twice as wide, so that the volume stays inside for every axis and only sharpness differs.
    details = np.fft.rfft(np.pad(details, ((0, 0), (0, 0), (width // 2, width - width // 2))))
    frequency = np.fft.rfftfreq(2 * width)
    weights_rad = angle_weights(angles_rad)

    def negative_sharpness(pixels: float) -> float:
        # Shifts the projections rather than the axis, so that all axes have the same interpolation loss.
        moved = np.fft.irfft(details * np.exp(2j * np.pi * frequency * pixels), 2 * width)
        volume = back_project(moved.astype(np.float32), angles_rad, weights_rad)
        return -float(volume.double().square().sum())

    reach = width // AXIS_REACH
    candidates = np.arange(-reach, reach + 1)
    near = float(candidates[np.argmin([negative_sharpness(pixels) for pixels in candidates])])
    found = optimize.minimize_scalar(
        negative_sharpness, bounds=(near - 1, near + 1), method="bounded", options={"xatol": 0.02}
    )
    return factor * float(found.x)
