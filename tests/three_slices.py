"""Three slices seen from one angle, by a simulation that uses no model of ours.

Lengths are in pixels, distances in pixels²/λ. The wave lives in a window twice as wide as the one that belongs to the
detector's pitch, and every detector pixel sums what falls on it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from far_field_scan import aligned_correlation
from numpy.typing import NDArray
from scipy import ndimage

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry

PIXEL_M, WAVELENGTH_M, DETECTOR_PIXEL_M = 10e-9, 0.2e-9, 75e-6

PUPIL = 0.17
"""Radius of the lens's pupil, cycles a pixel."""


def propagated(wave: NDArray, way: float) -> NDArray:
    """Return waves (..., y, x) a way further, pixels²/λ, by Fresnel's kernel."""
    f2 = sum(axis**2 for axis in np.meshgrid(*(np.fft.fftfreq(n) for n in wave.shape[-2:]), indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-1j * np.pi * way * f2))


@dataclass(frozen=True)
class ThreeSlices:
    """What is simulated.

    Attributes:
        window: detector pixels a side.
        side: positions a side of the scanned square.
        step: between them.
        spacing: of the slices.
        focus: from the focus to the middle slice.
        photons: a pattern.
        seed: of positions, slices and noise.
    """

    window: int = 128
    side: int = 18
    step: float = 5.0
    spacing: float = 60.0
    focus: float = 120.0
    photons: float = 1e7
    seed: int = 0

    @property
    def depth_um(self) -> float:
        """Of the three slices."""
        return 3 * self.spacing_m * 1e6

    @property
    def spacing_m(self) -> float:
        """Of the slices."""
        return self.spacing * PIXEL_M**2 / WAVELENGTH_M

    @cached_property
    def position(self) -> NDArray[np.float64]:
        """(view, 2) of the probe (y, x)."""
        steps = (np.arange(self.side) - (self.side - 1) / 2) * self.step
        grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
        return grid + np.random.default_rng(1 + 10 * self.seed).uniform(-1.5, 1.5, grid.shape)

    @cached_property
    def slices(self) -> NDArray[np.complex128]:
        """(slice, y, x) transmission."""
        random, (y, x) = np.random.default_rng(2 + 10 * self.seed), self._plane()
        size, slices = len(y), []
        for number in range(3):
            thickness = np.zeros((size, size))
            for _ in range(size * size // 350):
                cy, cx, radius = *random.uniform(-size / 2, size / 2, 2), random.uniform(2, 7)
                apart = np.abs(y - cy) + np.abs(x - cx) if number == 1 else np.hypot(y - cy, x - cx)
                thickness += np.clip(radius - apart + 0.5, 0, 1) * random.uniform(0.3, 1)
            thickness = ndimage.gaussian_filter(thickness, 0.5)
            slices.append(np.exp(-(0.6j + 0.03) * thickness / np.percentile(thickness, 99)))
        return np.stack(slices)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(y, x) where the beam went."""
        y, x = self._plane()
        reach = (self.side - 1) / 2 * self.step
        return (np.abs(y) < reach) & (np.abs(x) < reach)

    @cached_property
    def counts(self) -> NDArray[np.float32]:
        """(view, y, x)."""
        return np.random.default_rng(3 + 10 * self.seed).poisson(self._patterns() * self.photons).astype(np.float32)

    def first_probe(self, way: float = 0.0) -> NDArray[np.complex64]:
        """Return a probe (y, x) to start from, ``way`` behind the middle slice; its focus is a tenth of its way off."""
        wave = propagated(self._probe(0.9 * self.focus, self.window), way)
        return (wave * np.sqrt(self.photons)).astype(np.complex64)

    def scan(self) -> Scan:
        """Return the scan with the first probe."""
        views, n = len(self.position), self.window
        geometry = ScanGeometry(
            technique="ptychography",
            beam=Beam(WAVELENGTH_M, self.focus * PIXEL_M**2 / WAVELENGTH_M),
            detector=Detector((n, n), (DETECTOR_PIXEL_M, DETECTOR_PIXEL_M), "far_field"),
            distance_m=np.full(views, n * DETECTOR_PIXEL_M * PIXEL_M / WAVELENGTH_M),
            angle_rad=np.zeros(views),
            position_m=self.position * PIXEL_M,
        )
        return Scan(geometry, Frames(self.counts), self.first_probe()[None])

    def _plane(self) -> list[NDArray[np.float64]]:
        size = 2 * math.ceil(np.abs(self.position).max()) + 2 * self.window
        return list(np.meshgrid(*(np.arange(size) - (size - 1) / 2,) * 2, indexing="ij"))

    def _probe(self, way: float, n: int) -> NDArray[np.complex128]:
        """Return a wave (y, x) of one photon ``way`` behind its focus."""
        y, x = np.meshgrid(*(np.fft.fftfreq(n),) * 2, indexing="ij")
        radius = np.hypot(y, x) / PUPIL
        opening = np.clip((1 - radius) * PUPIL * self.window / 2 + 0.5, 0, 1)
        opening = opening * (1 + 0.3 * np.cos(4 * np.arctan2(y, x)) * radius**2)
        wave = np.fft.fftshift(np.fft.ifft2(opening * np.exp(0.6j * radius**3 * np.cos(np.arctan2(y, x)))))
        return propagated(wave / np.linalg.norm(wave), way)

    def _patterns(self) -> NDArray[np.float64]:
        wide, size = 2 * self.window, self.slices.shape[-1]
        entrance = self._probe(self.focus - self.spacing, wide)
        spectrum = np.fft.fft2(entrance)
        f = np.fft.fftfreq(wide)
        patterns = []
        for place in self.position:
            start = np.floor(place + size / 2 - wide / 2).astype(int)
            part = place + size / 2 - 0.5 - wide // 2 - start
            wave = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (f[:, None] * part[0] + f * part[1])))
            for number, transmission in enumerate(self.slices):
                wave = propagated(wave, self.spacing) if number else wave
                wave = wave * transmission[start[0] : start[0] + wide, start[1] : start[1] + wide]
            # A detector pixel integrates: fine pixel 2i is the middle of pixel i.
            fine = np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2
            patterns.append(_binned(fine))
        return np.stack(patterns)

    def correlations(self, transmissions: NDArray) -> list[float]:
        """Return the correlation of each slice (slice, y, x), of the same middle, with the truth."""
        found = [_fitted_to(each, self.seen.shape) for each in transmissions]
        return [aligned_correlation(one, other, self.seen) for one, other in zip(found, self.slices, strict=True)]


def _binned(fine: NDArray) -> NDArray:
    halves = ndimage.convolve1d(fine, [0.5, 1, 0.5], axis=0, mode="wrap")
    return ndimage.convolve1d(halves, [0.5, 1, 0.5], axis=1, mode="wrap")[::2, ::2]


def _fitted_to(array: NDArray, shape: tuple[int, int]) -> NDArray:
    """Return the middle of an array, or the array with ones around."""
    for axis, n in enumerate(shape):
        more = n - array.shape[axis]
        before = abs(more) // 2
        if more < 0:
            array = np.take(array, np.arange(before, before + n), axis)
        else:
            widths = [(0, 0), (0, 0)]
            widths[axis] = (before, more - before)
            array = np.pad(array, widths, constant_values=1)
    return array
