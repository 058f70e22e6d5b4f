"""Alignment of a series of holograms whose frames are shifted at random or drift from angle to angle.

The projected phase of every angle is compared with its reprojection from all other angles: a filtered back-projection
without that angle, projected along it. The shifts that make both agree are found by cross-correlation, repeated until
they no longer change. The fit then refines them.

Sources: reprojection alignment: Dengler, Ultramicroscopy 30, 337 (1989); Gürsoy et al., Sci. Rep. 7, 11818 (2017).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

from bluesky_multislice.measurement import Scan
from bluesky_multislice.optics.conventions import centred
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan
from bluesky_multislice.reconstruction.start.back_projection import angle_weights
from bluesky_multislice.reconstruction.start.first_volume import by_contrast_transfer, by_paganin, load_holograms

_RATIO = 0.3
"""β/δ of the retrieval. With 0.05, smooth errors of the phase move the shifts along x by half a pixel."""

_MOST_PIXELS = 64
"""Phases are binned to at most this width and height."""

_DETAILS = 3
"""Details larger than the width over this number are filtered out, because their thin-sample phase is wrong."""

_ROUNDS = 14
"""Repetitions, after which 48 angles shifted by 2 pixels rms are known to 0.1 pixel along y and 0.3 along x."""

_FIRST_REACH = 8
"""Largest shift in the first round, pixels; it shrinks, because later peaks further away are of other details."""

_WIDE_ROUNDS = (5, 8)
"""Rounds that search half the width, for frames that an earlier round has moved onto another detail."""

_MOMENTUM = 0.8
"""Part of a round's change that is repeated in the next: errors that vary slowly with the angle shrink slowly."""

_LARGEST_MISFIT = 0.8
"""Largest misfit of aligned reprojections relative to that of the series as measured.

Of aligned series with 48 angles both are equal within 1 %; of series shifted by 2 pixels rms the ratio is 0.2.
"""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Shifts that align a series.

    Attributes:
        pixels: (angle, 2) shifts (y, x) to add to the frames' content, in pixels of the volume.
        misfit: 1 − correlation of projected phases with their reprojections from all other angles, after alignment.
        misfit_before: the same of the series as measured.
    """

    pixels: NDArray[np.float64]
    misfit: float
    misfit_before: float

    @property
    def is_better(self) -> bool:
        """Whether the aligned series is clearly more consistent than the series as measured."""
        return self.misfit < _LARGEST_MISFIT * self.misfit_before


def align_series(scan: Scan, plan: Plan, probe: Tensor, scale: float, mesh: Mesh) -> Alignment:
    """Return the shifts of a series of holograms.

    A common shift along y, and shifts along x that vary with the cosine or sine of the angle, move the volume only and
    are left out. The sample has to be inside the frames for the most part.

    Args:
        scan: the scan, with several angles.
        plan: plan of the reconstruction.
        probe: complex (mode, y, x), in the square root of the frames' units over ``scale``.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
    """
    angles_rad = np.unique(scan.geometry.angle_rad)
    phases, binning = _binned_phases(scan, plan, probe, scale, mesh, angles_rad)
    series = _Series(phases, angles_rad)
    pixels = series.aligned()
    return Alignment(binning * pixels, series.misfit(pixels), series.misfit(np.zeros_like(pixels)))


def move_views(scan: Scan, pixels: NDArray[np.float64], pixel_m: tuple[float, float]) -> Scan:
    """Return the scan with the frames of each angle shifted by these pixels (angle, 2), of this pitch (y, x)."""
    angle_of = np.unique(scan.geometry.angle_rad, return_inverse=True)[1]
    position_m = scan.geometry.position_m + (pixels * np.array(pixel_m))[angle_of]
    return replace(scan, geometry=replace(scan.geometry, position_m=position_m))


def _binned_phases(
    scan: Scan, plan: Plan, probe: Tensor, scale: float, mesh: Mesh, angles_rad: NDArray[np.float64]
) -> tuple[NDArray[np.float32], int]:
    """Return the projected phases (angle, y, x) of all ranks' angles, and the pixels that were binned along an axis."""
    height, width = plan.grid.shape[1:]
    factor = -(-max(height, width) // _MOST_PIXELS)
    rows, columns = height // factor, width // factor
    phases = torch.zeros(len(angles_rad), rows, columns)
    retrieval = by_paganin if len(np.unique(scan.geometry.effective_distance_m)) == 1 else by_contrast_transfer
    for own in load_holograms(scan, plan, np.arange(scan.geometry.views), probe, scale, mesh):
        phase = retrieval(own, scan.geometry, plan.grid, _RATIO)[: rows * factor, : columns * factor]
        binned = phase.unflatten(1, (columns, factor)).unflatten(0, (rows, factor)).mean((1, 3))
        phases[np.searchsorted(angles_rad, own.angle_rad)] = binned
    phases = phases.to(mesh.device)
    mesh.sum(phases)
    return phases.cpu().numpy(), factor


class _Series:
    """Projected phases (angle, y, x) of a series, with the projection matrix of their field.

    The field is twice as high and wide as the phases, so that shifted phases stay inside.
    """

    def __init__(self, phases: NDArray[np.float32], angles_rad: NDArray[np.float64]) -> None:
        edge = [n // 2 for n in phases.shape[1:]]
        self._phases = np.pad(phases, ((0, 0), *((n, n) for n in edge)))
        self._width = phases.shape[2]
        self._angles_rad = angles_rad
        self._weights_rad = angle_weights(angles_rad)
        self._projection = _projection_matrix(angles_rad, self._phases.shape[2])

    def aligned(self) -> NDArray[np.float64]:
        """Return the shifts (angle, 2) that align the series, in its pixels."""
        shifts = self._without_motion(-_centres_of_mass(self._phases))
        change = np.zeros_like(shifts)
        for number in range(_ROUNDS):
            details = self._details(shifts, blur=max(0.7, 3 * 0.8**number))
            reach = self._width // 2 if number in _WIDE_ROUNDS else max(2, round(_FIRST_REACH * 0.8**number))
            step = _shifts_between(details, self._reprojected(details), reach)
            change = step + (_MOMENTUM * change if number > 3 and number not in _WIDE_ROUNDS else 0)
            shifts = self._without_motion(shifts + change)
        return shifts

    def misfit(self, shifts: NDArray[np.float64]) -> float:
        """Return 1 − the mean correlation of the phases with their reprojections."""
        details = self._details(shifts, blur=0.7)
        reprojected = self._reprojected(details)
        norms = np.sqrt((details**2).sum((1, 2)) * (reprojected**2).sum((1, 2)))
        return 1 - float(((details * reprojected).sum((1, 2)) / np.maximum(norms, np.finfo(float).tiny)).mean())

    def _details(self, shifts: NDArray[np.float64], blur: float) -> NDArray[np.float64]:
        """Return the shifted phases (angle, y, x), blurred by a Gaussian of this σ, without their large structures."""
        height, width = self._phases.shape[1:]
        y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
        ramp = np.exp(-2j * np.pi * (y * shifts[:, 0, None, None] + x * shifts[:, 1, None, None]))
        moved = np.fft.irfft2(np.fft.rfft2(self._phases) * ramp, (height, width))
        large = self._width / _DETAILS
        return ndimage.gaussian_filter(moved, (0, blur, blur)) - ndimage.gaussian_filter(moved, (0, large, large))

    def _reprojected(self, details: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the projections (angle, y, x) of the filtered back-projection of all other angles."""
        angles, rows, width = details.shape
        filtered = _ramp_filtered(details) * self._weights_rad[:, None, None]
        lines = filtered.transpose(0, 2, 1).reshape(angles * width, rows).astype(np.float32)
        projected = self._projection @ (self._projection.T @ lines)
        for first in range(0, angles * width, width):
            own = self._projection[first : first + width]
            projected[first : first + width] -= own @ (own.T @ lines[first : first + width])
        return projected.reshape(angles, width, rows).transpose(0, 2, 1).astype(float)

    def _without_motion(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shifts (angle, 2) without those of the whole volume."""
        basis = np.stack([np.cos(self._angles_rad), np.sin(self._angles_rad)], axis=1)
        along_x = shifts[:, 1] - basis @ np.linalg.lstsq(basis, shifts[:, 1], rcond=None)[0]
        return np.stack([shifts[:, 0] - shifts[:, 0].mean(), along_x], axis=1)


def _projection_matrix(angles_rad: NDArray[np.float64], width: int) -> sparse.csr_array:
    """Return the matrix (angle·x, z·x) of projections along z of a rotated plane, with linear interpolation."""
    line = centred(width).numpy()
    z, x = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    at = np.cos(angles_rad)[:, None] * x + np.sin(angles_rad)[:, None] * z + (width - 1) / 2
    left = np.floor(at).astype(np.int32)
    pixel = np.stack([left, left + 1])
    weight = np.stack([left + 1 - at, at - left]).astype(np.float32)
    row = pixel + width * np.arange(len(angles_rad), dtype=np.int32)[:, None]
    column = np.broadcast_to(np.arange(width**2, dtype=np.int32), pixel.shape)
    inside = (pixel >= 0) & (pixel < width)
    shape = (len(angles_rad) * width, width**2)
    return sparse.csr_array((weight[inside], (row[inside], column[inside])), shape=shape)


def _ramp_filtered(projections: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return projections (angle, y, x) filtered for back-projection by a ramp with a Hann window."""
    width = projections.shape[-1]
    frequency = np.fft.rfftfreq(2 * width)
    ramp = frequency * (1 + np.cos(2 * np.pi * frequency))
    return np.fft.irfft(np.fft.rfft(projections, 2 * width) * ramp, 2 * width)[..., :width]


def _centres_of_mass(phases: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the centres of mass (angle, 2), (y, x), from the centre of the frames."""
    y, x = (centred(n).numpy() for n in phases.shape[1:])
    mass = phases.sum((1, 2))
    moments = np.stack([phases.sum(2) @ y, phases.sum(1) @ x], axis=1)
    return np.divide(moments, mass[:, None], out=np.zeros_like(moments), where=mass[:, None] > 0)


def _shifts_between(images: NDArray[np.float64], targets: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the shifts (n, 2), (y, x), that move images (n, y, x) onto targets, by the peak of their correlation.

    Along each axis they are at most ``reach`` pixels.
    """
    height, width = images.shape[1:]
    field = (2 * height, 2 * width)
    spectrum = np.fft.rfft2(images, field).conj() * np.fft.rfft2(targets, field)
    correlation = np.fft.irfft2(spectrum, field)
    correlation = np.roll(correlation, (reach + 1, reach + 1), (1, 2))[:, : 2 * reach + 3, : 2 * reach + 3]
    found = np.empty((len(images), 2))
    for number, peaks in enumerate(correlation):
        y, x = np.unravel_index(peaks[1:-1, 1:-1].argmax(), peaks[1:-1, 1:-1].shape)
        around = peaks[y : y + 3, x : x + 3]
        found[number] = (y - reach + _vertex(*around[:, 1]), x - reach + _vertex(*around[1]))
    return found


def _vertex(before: float, middle: float, after: float) -> float:
    """Return where the parabola through three equidistant values has its maximum, relative to the middle."""
    curvature = before - 2 * middle + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0
