"""Focus distance from far-field patterns alone, by the motion of the sample's shadows in the lens's cone.

At a distance z behind the focus, the wave of frequency f is at x = λzf. A detail of the sample at x casts its shadow at
the corresponding f. A step ΔR of the scan therefore moves shadows by −ΔR/(λz), and in the opposite direction if the
focus is downstream. Close to the focus there are no shadows.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from bluesky_multislice.measurement import ScanGeometry

_STEPS = np.geomspace(0.03, 0.6, 60)
"""Scan steps to search, in diameters of the probe."""

_NEIGHBOURS = slice(5, 25)
"""Neighbours of a view to compare it with, by distance; the nearest are similar even without moving shadows."""

_BRIGHT = 0.25
"""Intensity relative to the maximum above which the mean pattern belongs to the lens's pupil."""

_LEAST_OVERLAP = 0.2
"""Smallest overlap of two shifted pupils, relative to the pupil's area."""


def pupil(mean_frame: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of the mean far-field pattern (y, x) in the pupil of the lens that are good."""
    return mask & (mean_frame > _BRIGHT * np.percentile(mean_frame[mask], 99.5))


def depth_of_focus_m(geometry: ScanGeometry, mean_frame: NDArray, mask: NDArray[np.bool_]) -> float:
    """Return λ/NA² of a round lens with the pupil area of the mean far-field pattern (y, x)."""
    extent = [n * pitch for n, pitch in zip(mean_frame.shape, geometry.object_pixel_m, strict=True)]
    aperture2 = geometry.beam.wavelength_m**2 * pupil(mean_frame, mask).sum() / np.pi / (extent[0] * extent[1])
    return geometry.beam.wavelength_m / float(aperture2)


def candidate_distances_m(geometry: ScanGeometry, mean_frame: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return distances (n,) from the focus to z = 0 for which the scan step matches the probe diameter.

    They are positive; the focus may also be downstream at the same distances.

    Args:
        geometry: the scan, with at least two positions.
        mean_frame: (y, x) mean of its patterns.
        mask: (y, x) True for good pixels.
    """
    places = np.unique(geometry.position_m, axis=0)
    step = np.median(KDTree(places).query(places, k=2)[0][:, 1])
    half_angle = np.sqrt(geometry.beam.wavelength_m / depth_of_focus_m(geometry, mean_frame, mask))
    return step / _STEPS / (2 * half_angle)


def shadow_similarity(
    frames: NDArray, mean_frame: NDArray, mask: NDArray[np.bool_], geometry: ScanGeometry, distances_m: NDArray
) -> NDArray[np.float64]:
    """Return the similarity of shadows in neighbouring views, shifted according to each distance.

    Args:
        frames: (view, y, x) far-field patterns.
        mean_frame: (y, x) their mean.
        mask: (y, x) True for good pixels.
        geometry: geometry of these views.
        distances_m: (n,) distances from the focus to z = 0.

    Returns:
        (2, n) sums over pairs of views of correlation and weight; their ratio is the mean similarity.
    """
    sums = np.zeros((2, len(distances_m)))
    if len(frames) <= _NEIGHBOURS.start:
        return sums
    inside = pupil(mean_frame, mask)
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(inside))
    inside, extent = inside[box], np.array(mean_frame.shape) * np.array(geometry.object_pixel_m)
    shadows = _shadows(np.nan_to_num(frames[:, *box]), mean_frame[box], inside)
    size = [2 * n for n in inside.shape]
    spectra, whole = (np.fft.rfft2(part, s=size) for part in (shadows, inside.astype(float)))
    overlap = np.fft.irfft2(np.abs(whole) ** 2, s=size) / inside.sum()
    reach = min(_NEIGHBOURS.stop, len(frames))
    near = np.asarray(KDTree(geometry.position_m).query(geometry.position_m, k=reach)[1])[:, _NEIGHBOURS]
    for one, other in {(min(i, j), max(i, j)) for i, row in enumerate(near.tolist()) for j in row}:
        step_m = geometry.position_m[one] - geometry.position_m[other]
        shift = np.outer(extent / geometry.beam.wavelength_m * step_m, 1 / distances_m)
        shared = ndimage.map_coordinates(overlap, shift, order=1, mode="grid-wrap")
        shared = np.where((np.abs(shift) < np.array(inside.shape)[:, None]).all(0), shared, 0)
        correlation = np.fft.irfft2(spectra[other] * spectra[one].conj(), s=size)
        similarity = ndimage.map_coordinates(correlation, shift, order=1, mode="grid-wrap")
        sums += np.where(shared > _LEAST_OVERLAP, np.stack([similarity, shared]), 0)
    return sums


def distance_from_shadows_m(distances_m: NDArray[np.float64], similarity: NDArray[np.float64]) -> float:
    """Return the distance from the focus to z = 0 at which shadows are most similar.

    Neighbouring views are similar for any shift. The decisive quantity is the difference in similarity between the two
    sides of the focus.

    Args:
        distances_m: (n,) positive distances.
        similarity: (2, 2n) from ``shadow_similarity``, for these distances upstream and then downstream.
    """
    total, weight = similarity
    mean = np.where(weight > 0.1 * weight.max(), total / np.maximum(weight, 1e-9), 0)
    upstream, downstream = np.split(mean, 2)
    difference = upstream - downstream
    best = np.abs(difference).argmax()
    return float(np.copysign(distances_m[best], difference[best]))


def _shadows(frames: NDArray, mean_frame: NDArray, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return relative changes in the pupil (view, y, x), high-pass filtered, with uniform noise and norm 1."""
    level = np.where(inside, mean_frame, 1)
    change = np.where(inside, frames / level - 1, 0) * np.sqrt(level)
    width = (0, *(n / 6 for n in inside.shape))
    weight = ndimage.gaussian_filter(inside.astype(float), width[1:], mode="constant").clip(1e-3)
    change = np.where(inside, change - ndimage.gaussian_filter(change, width, mode="constant") / weight, 0)
    norm = np.sqrt(np.square(change).sum((1, 2), keepdims=True))
    return change / np.where(norm > 0, norm, 1)
