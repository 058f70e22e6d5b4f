"""Shifts of projections that make them agree with their reprojections from all other angles.

Each projection is compared with that of the filtered back-projection of all other angles. Cross-correlation of both
gives a shift. This is repeated with the shifted projections.

Sources: Dengler, Ultramicroscopy 30, 337 (1989); Gürsoy et al., Sci. Rep. 7, 11818 (2017).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from bluesky_multislice.optics.conventions import centred
from bluesky_multislice.reconstruction.start.back_projection import angle_weights, ramp_filtered

_EDGE = 4
"""Projections are padded on each side by their width over this number. No shift is larger."""

_DETAILS = 3
"""σ of the Gaussian high-pass is the width over this number: larger structures have a wrong thin-sample phase."""

_ROUNDS = 14
"""Repetitions, after which 48 angles shifted by 2 pixels rms are known to 0.1 pixel along y and 0.3 along x."""

_FIRST_REACH = 8
"""Largest shift in the first round, pixels; it shrinks, because later peaks further away are of other details."""

_WIDE_ROUNDS = (5, 8)
"""Rounds, counted from 0, that search all shifts, for projections that were moved onto another detail before."""

_MOMENTUM = 0.8
"""Part of a round's change that is repeated in the next: errors that vary slowly with the angle shrink slowly."""

_EDGE_OF_SAMPLE = 0.05
"""Mean projection at the edge of the sample, relative to its maximum."""

_AROUND = 8
"""Width of a projection over that of the region around the sample that its centre of mass includes."""

_CENTRES_AGREE_PIXELS = 0.3
"""Largest rms of centres of mass along y, so that those along x correct the shifts.

From few angles, reprojection finds shifts along y to 0.1 pixel, but those along x to 0.9 pixel only. The centre of mass
of a sample inside the frames is known equally well along both axes: to 0.1 to 0.3 pixels for 10,000 photons per pixel
or more. Of samples that reach the edges, and for 300 photons, its rms along y is 0.35 to 3 pixels.
"""

_CENTRES_MISFIT = 1.15
"""Largest misfit after the correction by centres of mass, relative to the misfit before.

Reprojection minimises the misfit. The correction makes it grow: by 1 to 10 % where it helped, by 40 % where not.
"""


class Projections:
    """Projections of one sample at several angles.

    Args:
        values: (angle, y, x) projections, zero around the sample.
        angles_rad: (angle,) angles.
    """

    def __init__(self, values: NDArray[np.floating], angles_rad: NDArray[np.float64]) -> None:
        self._shape = height, width = values.shape[1:]
        self._field = height + 2 * (height // _EDGE), width + 2 * (width // _EDGE)
        edges = [(n // _EDGE, n // _EDGE) for n in self._shape]
        self._spectrum = np.fft.rfft2(np.pad(values, ((0, 0), *edges)))
        self._angles_rad = angles_rad
        self._weights_rad = angle_weights(angles_rad)[:, None, None].astype(np.float32)
        self._centres = _centres_of_mass(values)
        self._projection, self._own = _projection_matrices(angles_rad, self._field[1])

    def aligned(self) -> NDArray[np.float64]:
        """Return the shifts (angle, 2), (y, x) in pixels, that align the projections."""
        shifts = self._without_motion(-self._centres)
        change = np.zeros_like(shifts)
        most = np.array(self._shape) // _EDGE
        for number in range(_ROUNDS):
            wide = number in _WIDE_ROUNDS
            reach = min(most) if wide else max(2, round(_FIRST_REACH * 0.8**number))
            step = self._steps(shifts, max(0.7, 3 * 0.8**number), reach)
            # A jump of a wide round is not repeated.
            momentum = 0 if number < 4 or {number, number - 1} & set(_WIDE_ROUNDS) else _MOMENTUM
            change = step + momentum * change
            shifts = np.clip(self._without_motion(shifts + change), -most, most)
        return self._with_centres(shifts)

    def misfit(self, shifts: NDArray[np.float64]) -> float:
        """Return 1 − the mean correlation of the shifted projections with their reprojections."""
        details = self._inverse(self._details(shifts, blur=0.7))
        reprojected = self._reprojected(details)
        norms = np.sqrt((details**2).sum((1, 2)) * (reprojected**2).sum((1, 2)))
        return 1 - float(((details * reprojected).sum((1, 2)) / np.maximum(norms, np.finfo(np.float32).tiny)).mean())

    def common_shift(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of the shifts (angle, 2) that a shift of the rotation axis explains."""
        basis = np.stack([np.ones_like(self._angles_rad), np.cos(self._angles_rad), np.sin(self._angles_rad)], axis=1)
        common = np.zeros_like(shifts)
        common[:, 1] = np.linalg.lstsq(basis, shifts[:, 1], rcond=None)[0][0]
        return common

    def _with_centres(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shifts (angle, 2), corrected along x by the sample's centres of mass if these are reliable."""
        moved, width = self._inverse(self._details(shifts, 0.0, large_structures=True)), self._shape[1]
        mean = ndimage.gaussian_filter(moved.mean(0), width / (4 * _DETAILS))
        distance = np.asarray(ndimage.distance_transform_edt(mean <= _EDGE_OF_SAMPLE * mean.max()))
        around = np.clip(1 - (distance - width / _AROUND) / (width / _AROUND / 2), 0, 1)
        centres = self._without_motion(-_centres_of_mass(moved * around))
        corrected = shifts + centres * [0, 1]
        reliable = np.sqrt((centres[:, 0] ** 2).mean()) < _CENTRES_AGREE_PIXELS
        return corrected if reliable and self.misfit(corrected) < _CENTRES_MISFIT * self.misfit(shifts) else shifts

    def _steps(self, shifts: NDArray[np.float64], blur: float, reach: int) -> NDArray[np.float64]:
        """Return further shifts (angle, 2) of at most ``reach`` pixels per axis, from the correlations' peaks."""
        spectrum = self._details(shifts, blur)
        reprojected = self._reprojected(self._inverse(spectrum))
        return _peaks(self._inverse(spectrum.conj() * np.fft.rfft2(reprojected)), reach)

    def _details(
        self, shifts: NDArray[np.float64], blur: float, *, large_structures: bool = False
    ) -> NDArray[np.complexfloating]:
        """Return the spectra of the shifted projections, blurred by a Gaussian of this σ."""
        y, x = np.fft.fftfreq(self._field[0])[:, None], np.fft.rfftfreq(self._field[1])
        squared, large = -2 * np.pi**2 * (y**2 + x**2), self._shape[1] / _DETAILS
        window = (np.exp(squared * blur**2) - (0 if large_structures else np.exp(squared * large**2))).astype(
            np.float32
        )
        along = [np.exp(-2j * np.pi * part) for part in (np.outer(shifts[:, 0], y), np.outer(shifts[:, 1], x))]
        ramp_y, ramp_x = (part.astype(np.complex64) for part in along)
        return self._spectrum * window * ramp_y[:, :, None] * ramp_x[:, None]

    def _inverse(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.floating]:
        return np.fft.irfft2(spectrum, self._field)

    def _reprojected(self, details: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the projections (angle, y, x) of the filtered back-projection of all other angles."""
        angles, rows, width = details.shape
        filtered = (ramp_filtered(details, beyond="constant") * self._weights_rad).transpose(0, 2, 1)
        lines = np.ascontiguousarray(filtered).reshape(angles * width, rows)
        projected = (self._projection @ (self._projection.T @ lines)).reshape(angles, width, rows)
        return np.ascontiguousarray((projected - self._own @ filtered).transpose(0, 2, 1))

    def _without_motion(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shifts (angle, 2) without those of the whole volume."""
        basis = np.stack([np.cos(self._angles_rad), np.sin(self._angles_rad)], axis=1)
        along_x = shifts[:, 1] - basis @ np.linalg.lstsq(basis, shifts[:, 1], rcond=None)[0]
        return np.stack([shifts[:, 0] - shifts[:, 0].mean(), along_x], axis=1)


def _projection_matrices(angles_rad: NDArray[np.float64], width: int) -> tuple[sparse.csr_array, NDArray[np.floating]]:
    """Return the matrix (angle·x, z·x) of projections along z of a rotated plane, with linear interpolation.

    Its products with its transpose, (angle, x, x), of each angle alone, are the second value.
    """
    line = centred(width).numpy()
    z, x = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    column = np.arange(width**2, dtype=np.int32)
    parts, own = [], []
    for angle in angles_rad:
        at = np.cos(angle) * x + np.sin(angle) * z + (width - 1) / 2
        left = np.floor(at).astype(np.int32)
        pixel, weight = np.concatenate([left, left + 1]), np.concatenate([left + 1 - at, at - left])
        inside = (pixel >= 0) & (pixel < width)
        places = pixel[inside], np.tile(column, 2)[inside]
        parts.append(sparse.csr_array((weight[inside].astype(np.float32), places), shape=(width, width**2)))
        own.append((parts[-1] @ parts[-1].T).toarray())
    return sparse.csr_array(sparse.vstack(parts, format="csr")), np.stack(own)


def _centres_of_mass(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the centres of mass (angle, 2), (y, x), from the centre of the projections."""
    y, x = (centred(n).numpy() for n in values.shape[1:])
    mass = values.sum((1, 2), dtype=float)
    moments = np.stack([values.sum(2) @ y, values.sum(1) @ x], axis=1)
    return np.divide(moments, mass[:, None], out=np.zeros_like(moments), where=mass[:, None] > 0)


def _peaks(correlation: NDArray[np.floating], reach: int) -> NDArray[np.float64]:
    """Return the highest peaks (n, 2), (y, x), of correlations (n, y, x), within ``reach`` pixels of shift 0."""
    near = np.roll(correlation, (reach + 1, reach + 1), (1, 2))[:, : 2 * reach + 3, : 2 * reach + 3]
    found = np.empty((len(correlation), 2))
    for number, peaks in enumerate(near.astype(float)):
        y, x = np.unravel_index(peaks[1:-1, 1:-1].argmax(), (2 * reach + 1, 2 * reach + 1))
        around = peaks[y : y + 3, x : x + 3]
        found[number] = (y - reach + _vertex(*around[:, 1]), x - reach + _vertex(*around[1]))
    return found


def _vertex(before: float, middle: float, after: float) -> float:
    """Return where the parabola through three equidistant values has its maximum, relative to the middle."""
    curvature = before - 2 * middle + after
    return float(np.clip(0.5 * (before - after) / curvature, -1, 1)) if curvature < 0 else 0.0
