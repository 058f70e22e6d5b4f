"""Finds the direct beam in the mean far-field pattern, as its centre of inversion symmetry.

The mean pattern of a scan is close to symmetric about the direct beam: the illumination's pattern is, and so is the
power spectrum of a weak sample. In contrast to the centre of mass, the centre of symmetry remains in place if a beam
stop, a gap or the detector's edge hides a part of the pattern.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

_COARSE = 256
"""Pixels per side of the reduced pattern, in which the centre is searched first."""

_FINE = 192
"""Largest distance from the coarse centre of the pixels that refine it."""

_CAP = 2e-4
"""Fraction of the pixels, the brightest, whose values are reduced to that of the next one: hot pixels do not count."""

_OVERLAP = 0.5
"""Smallest part of the intensity whose opposite pixels are measured, relative to the best centre."""

_LEAST_SYMMETRY = 0.6
"""Smallest cosine similarity of a pattern and its inversion about the direct beam."""

_DIFFERENT = 4.0
"""Ratio of opposite pixels above which one of them is hidden, by a beam stop for instance."""

_PASSES = 3
"""Number of searches without hidden pixels, which are those of the centre before."""


@dataclass(frozen=True)
class DirectBeam:
    """The direct beam.

    Attributes:
        centre: pixel index (row, column), with fractions.
        symmetry: cosine similarity of the pattern's amplitude and its inversion about the centre, at most 1.
    """

    centre: tuple[float, float]
    symmetry: float


def find_direct_beam(mean: NDArray[np.floating], good: NDArray[np.bool_]) -> DirectBeam:
    """Find the centre of the mean pattern.

    Args:
        mean: (y, x) mean pattern in the stored orientation.
        good: (y, x) True for the pixels with a value.

    Raises:
        FramesError: the pattern has no light, or no centre of symmetry.
    """
    amplitude = _amplitude(mean, good)
    if not amplitude.any():
        raise _not_found("no light above the background")
    factor = max(1, -(-max(amplitude.shape) // _COARSE))
    coarse = _symmetric_centre(*_reduced(amplitude, good, factor))
    centre = tuple((c + 0.5) * factor - 0.5 for c in coarse.centre)
    found, origin = _refined(amplitude, good, centre)
    centre = tuple(c + o for c, o in zip(found.centre, origin, strict=True))
    if found.symmetry < _LEAST_SYMMETRY:
        raise _not_found(f"a similarity of {found.symmetry:.2f} of the mean pattern and its inversion")
    return DirectBeam((float(centre[0]), float(centre[1])), found.symmetry)


def _amplitude(mean: NDArray[np.floating], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the amplitude above the background, without single bright pixels; zero where masked."""
    from scipy import ndimage

    values = np.where(good & np.isfinite(mean), mean, 0.0).clip(min=0)
    values = np.asarray(ndimage.median_filter(values, 3, mode="nearest"), np.float64)
    amplitude = np.sqrt(values)
    if not good.any():
        return np.zeros_like(amplitude)
    brightest = np.sort(amplitude[good])[::-1]
    cap = brightest[min(len(brightest) - 1, max(12, int(_CAP * len(brightest))))]
    return np.where(good, (amplitude.clip(max=cap) - np.median(brightest)).clip(min=0), 0.0)


def _reduced(
    amplitude: NDArray[np.float64], good: NDArray[np.bool_], factor: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return amplitude and good fraction of blocks of pixels; remaining pixels at the ends are dropped."""
    shape = [n // factor for n in amplitude.shape]
    blocks = [
        values[: shape[0] * factor, : shape[1] * factor].reshape(shape[0], factor, shape[1], factor).sum((1, 3))
        for values in (amplitude, good.astype(float))
    ]
    measured = blocks[1] >= factor**2 / 2
    return np.where(measured, blocks[0] / np.maximum(blocks[1], 1), 0.0), measured.astype(float)


def _refined(
    amplitude: NDArray[np.float64], good: NDArray[np.bool_], centre: tuple[float, ...]
) -> tuple[DirectBeam, tuple[int, ...]]:
    """Return the centre in a part of the pattern around a first estimate, and the part's first pixel."""
    middle = [round(c) for c in centre]
    part = tuple(slice(max(0, m - _FINE), m + _FINE + 1) for m in middle)
    values, measured = amplitude[part], good[part].astype(float)
    origin = tuple(one.start for one in part)
    found = _symmetric_centre(values, measured)
    for _ in range(_PASSES):
        visible = _visible(values, measured, found.centre)
        found = _symmetric_centre(values * visible, measured * visible)
    return found, origin


def _visible(
    values: NDArray[np.float64], measured: NDArray[np.float64], centre: tuple[float, float]
) -> NDArray[np.float64]:
    """Return (y, x) 0 for bright pixels whose opposite is far darker, and for that one; 1 for all others."""
    from scipy import ndimage

    smooth = np.asarray(ndimage.uniform_filter(values, 3))
    y, x = (np.round(2 * c - np.arange(n)).astype(int) for c, n in zip(centre, values.shape, strict=True))
    inside = ((y >= 0) & (y < len(y)))[:, None] & ((x >= 0) & (x < len(x)))[None, :]
    opposite = np.where(inside, smooth[np.clip(y, 0, len(y) - 1)][:, np.clip(x, 0, len(x) - 1)], 0.0)
    bright = np.quantile(smooth[measured > 0], 0.9) if (measured > 0).any() else 0.0
    larger, smaller = np.maximum(smooth, opposite), np.minimum(smooth, opposite)
    return np.where(inside & (larger > bright) & (larger > _DIFFERENT * smaller), 0.0, 1.0)


def _symmetric_centre(values: NDArray[np.float64], measured: NDArray[np.float64]) -> DirectBeam:
    """Return the centre about which values (y, x) are most similar to their inversion.

    The similarity about c is Σ v(r)·v(2c − r) / Σ v(r)²·m(2c − r), where m is 1 for measured pixels.
    """
    from scipy import signal

    products = signal.fftconvolve(values, values)
    energy = signal.fftconvolve(values**2, measured)
    enough = energy > _OVERLAP * energy.max()
    similarity = np.where(enough, products / np.where(enough, energy, 1.0), 0.0)
    # Of similar centres, the one whose opposite pixels hold most of the intensity.
    score = similarity * np.where(enough, energy, 0.0) ** 0.5
    peak = np.unravel_index(int(np.argmax(score)), score.shape)
    offset = [_vertex(np.take(score, peak[1 - axis], 1 - axis), int(peak[axis])) for axis in (0, 1)]
    return DirectBeam((float(peak[0] + offset[0]) / 2, float(peak[1] + offset[1]) / 2), float(similarity[peak]))


def _vertex(line: NDArray[np.float64], at: int) -> float:
    """Return the distance of a parabola's vertex from the index of a maximum."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = line[at - 1 : at + 2]
    curvature = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature < 0 else 0.0


def _not_found(got: str) -> FramesError:
    return FramesError(
        "The direct beam must be visible in the mean pattern.",
        got=f"{got}.",
        remedy='give its pixel as frames.centre = "ROW,COLUMN", or the part of the frames as frames.region.',
    )
