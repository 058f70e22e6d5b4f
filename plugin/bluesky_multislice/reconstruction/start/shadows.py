"""How far away the focus is, from far-field patterns alone: how shadows of the sample move through the lens's cone.

Behind a focus at distance z the light of frequency f lies at x = λzf. A detail of the sample that the cone lights casts
its shadow at the f that belongs to its x, so a step ΔR of the scan moves shadows by ΔR/(λz) towards the other side;
where the focus lies downstream they move the other way. Close to the focus there are no shadows.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from bluesky_multislice.measurement import ScanGeometry

_STEPS = np.geomspace(0.03, 0.6, 60)
"""Steps of a scan, in diameters of the probe, that are looked for."""

_NEIGHBOURS = slice(5, 25)
"""Views that each is compared with, by distance; nearer ones are alike without any shadow having moved."""

_BRIGHT = 0.25
"""Part of the brightest light above which the mean pattern counts as the lens's pupil."""

_LEAST_OVERLAP = 0.2
"""Part of the pupil that two moved pupils share at least."""


def pupil(mean_frame: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where in the mean far-field pattern (y, x) the direct light of the lens falls on good pixels."""
    return mask & (mean_frame > _BRIGHT * np.percentile(mean_frame[mask], 99.5))


def depth_of_focus_m(geometry: ScanGeometry, mean_frame: NDArray, mask: NDArray[np.bool_]) -> float:
    """Return λ/NA² of a round lens whose pupil is as large as that of the mean far-field pattern (y, x)."""
    extent = [n * pitch for n, pitch in zip(mean_frame.shape, geometry.object_pixel_m, strict=True)]
    aperture2 = geometry.beam.wavelength_m**2 * pupil(mean_frame, mask).sum() / np.pi / (extent[0] * extent[1])
    return geometry.beam.wavelength_m / float(aperture2)


def candidate_distances_m(geometry: ScanGeometry, mean_frame: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return distances (n,) from the focus to z = 0 for which the scan's steps fit the probe.

    They are positive; the focus may lie as far downstream.

    Args:
        geometry: the scan, of two positions at least.
        mean_frame: (y, x) mean of its patterns.
        mask: (y, x) True where a pixel is good.
    """
    places = np.unique(geometry.position_m, axis=0)
    step = np.median(KDTree(places).query(places, k=2)[0][:, 1])
    half_angle = np.sqrt(geometry.beam.wavelength_m / depth_of_focus_m(geometry, mean_frame, mask))
    return step / _STEPS / (2 * half_angle)


def shadow_likeness(
    frames: NDArray, mean_frame: NDArray, mask: NDArray[np.bool_], geometry: ScanGeometry, distances_m: NDArray
) -> NDArray[np.float64]:
    """Return how alike the shadows in neighbouring views are, moved as each distance says.

    Args:
        frames: (view, y, x) far-field patterns.
        mean_frame: (y, x) their mean.
        mask: (y, x) True where a pixel is good.
        geometry: of these views.
        distances_m: (n,) from the focus to z = 0.

    Returns:
        (2, n) sums over pairs of views of the likeness and of its weight; their ratio is the mean.
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
        way = geometry.position_m[one] - geometry.position_m[other]
        moved = np.outer(extent / geometry.beam.wavelength_m * way, 1 / distances_m)
        shared = ndimage.map_coordinates(overlap, moved, order=1, mode="grid-wrap")
        shared = np.where((np.abs(moved) < np.array(inside.shape)[:, None]).all(0), shared, 0)
        correlation = np.fft.irfft2(spectra[other] * spectra[one].conj(), s=size)
        alike = ndimage.map_coordinates(correlation, moved, order=1, mode="grid-wrap")
        sums += np.where(shared > _LEAST_OVERLAP, np.stack([alike, shared]), 0)
    return sums


def shadows_distance_m(distances_m: NDArray[np.float64], likeness: NDArray[np.float64]) -> float:
    """Return the distance from the focus to z = 0 at which shadows are most alike.

    Neighbouring views are somewhat alike however their shadows are moved; what tells is how much more alike they are on
    one side of the focus than on the other.

    Args:
        distances_m: (n,) positive.
        likeness: (2, 2n) from ``shadow_likeness`` of these and of the same ones with the focus downstream.
    """
    alike, weight = likeness
    mean = np.where(weight > 0.1 * weight.max(), alike / np.maximum(weight, 1e-9), 0)
    upstream, downstream = np.split(mean, 2)
    more = upstream - downstream
    best = np.abs(more).argmax()
    return float(np.copysign(distances_m[best], more[best]))


def _shadows(frames: NDArray, mean_frame: NDArray, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return what differs from the mean in the pupil (view, y, x), without slow changes, of even noise and norm 1."""
    level = np.where(inside, mean_frame, 1)
    change = np.where(inside, frames / level - 1, 0) * np.sqrt(level)
    width = (0, *(n / 6 for n in inside.shape))
    weight = ndimage.gaussian_filter(inside.astype(float), width[1:], mode="constant").clip(1e-3)
    change = np.where(inside, change - ndimage.gaussian_filter(change, width, mode="constant") / weight, 0)
    norm = np.sqrt(np.square(change).sum((1, 2), keepdims=True))
    return change / np.where(norm > 0, norm, 1)
