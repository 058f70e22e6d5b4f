"""A far-field ptychographic scan of one angle by a simulation that uses no model of ours, and how near an answer is.

Lengths are in pixels of the object. The wave lives in a window twice as wide as the one that belongs to the detector's
pitch, and every detector pixel sums what falls on it; the lens has aberrations, the object edges as sharp as a pixel.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry

WAVELENGTH_M, OBJECT_PIXEL_M, DETECTOR_PIXEL_M = 0.2e-9, 20e-9, 75e-6


@dataclass(frozen=True)
class FarFieldScan:
    """What is simulated.

    Attributes:
        detector: pixels a side.
        lens: round with a central stop, or rectangular as two mirrors make it.
        pupil: its radius on the detector, pixels.
        depths: way from the focus to the sample in depths of focus; negative when the focus lies downstream.
        step: between neighbouring positions, in diameters of the probe.
        positions: how many.
        phase: largest phase of the object, radians.
        photons: a pattern on average.
        modes: mutually incoherent copies of the probe, side by side.
        flicker: rms change of the beam's intensity from view to view, as a part of its amplitude.
        breathing: rms shift of the focus from view to view, depths of focus.
        stop: whether a beam stop, a gap between modules and dead pixels hide a part of the patterns.
        seed: of the object, positions and noise.
    """

    detector: int = 64
    lens: Literal["zone plate", "mirrors"] = "zone plate"
    pupil: float = 10.0
    depths: float = 2.0
    step: float = 0.15
    positions: int = 150
    phase: float = 1.0
    photons: float = 1e6
    modes: int = 1
    flicker: float = 0.0
    breathing: float = 0.0
    stop: bool = False
    seed: int = 0

    @property
    def focus_distance(self) -> float:
        """From the focus to the sample, in pixels²/λ: a multiple of the depth of focus (n/pupil)²."""
        return self.depths * (self.detector / self.pupil) ** 2

    @property
    def focus_distance_m(self) -> float:
        """From the focus to the sample."""
        return self.focus_distance * OBJECT_PIXEL_M**2 / WAVELENGTH_M

    @property
    def diameter(self) -> float:
        """Of the probe: of the cone and of the focus."""
        cone = 2 * abs(self.focus_distance) * self.pupil / self.detector
        return float(np.hypot(cone, 1.22 * self.detector / self.pupil))

    @cached_property
    def position(self) -> NDArray[np.float64]:
        """(view, 2) positions (y, x) on a spiral of equal areas, with jitter."""
        random = np.random.default_rng([self.seed, 1])
        index = np.arange(self.positions) + 0.5
        radius, turn = self.step * self.diameter * np.sqrt(index / np.pi), index * np.pi * (3 - np.sqrt(5))
        spiral = np.stack([radius * np.sin(turn), radius * np.cos(turn)], -1)
        return spiral + 0.1 * self.step * self.diameter * random.normal(size=spiral.shape)

    @cached_property
    def object(self) -> NDArray[np.complex128]:
        """Transmission (y, x) of discs, bars and texture; its middle is position 0."""
        random = np.random.default_rng([self.seed, 2])
        n = 2 * int(np.ceil(np.abs(self.position).max())) + 2 * self.detector + 8
        y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2,) * 2, indexing="ij")
        thickness = np.zeros((n, n))
        for _ in range(n * n // 300):
            cy, cx, radius = *random.uniform(-n / 2, n / 2, 2), random.uniform(1.5, 9)
            disc = np.clip(radius - np.hypot(y - cy, x - cx) + 0.5, 0, 1)
            thickness += disc * random.uniform(0.2, 1)
        star = (np.sin(18 * np.arctan2(y, x)) > 0) & (np.hypot(y, x) < 0.2 * n)
        thickness += ndimage.gaussian_filter(star.astype(float), 0.6)
        texture = ndimage.gaussian_filter(random.normal(size=(n, n)), 1.0)
        thickness = thickness / np.percentile(thickness, 99) + 0.1 * texture / np.abs(texture).max()
        absorption = 0.1 * self.phase * thickness.clip(0, 1.3) * (1 + 0.5 * (x > 0))
        return np.exp(-1j * self.phase * thickness.clip(0, 1.3) - absorption)

    @cached_property
    def pupils(self) -> NDArray[np.complex128]:
        """(mode, y, x) the wave in the pupil that gives the probe at the sample, on the fine detector."""
        n, radius = 2 * self.detector, 2 * self.pupil
        random = np.random.default_rng([self.seed, 3])
        y, x = np.meshgrid(*((np.arange(n) - n // 2) / radius,) * 2, indexing="ij")
        r = np.hypot(y, x)
        if self.lens == "zone plate":
            opening = _soft(1 - r, radius) * _soft(r - 0.35, radius)
        else:
            opening = _soft(0.9 - np.abs(x), radius) * _soft(0.7 - np.abs(y), radius)
            opening = opening * (1 + 0.2 * np.sin(9 * x + 1) + 0.1 * np.sin(13 * y))
        bends = np.stack([x * y, x**2 - y**2, (3 * r**2 - 2) * x, (3 * r**2 - 2) * y])
        wave = opening * np.exp(1j * np.tensordot(random.normal(size=4) * 0.4, bends, 1))
        f2 = (r * self.pupil / self.detector) ** 2
        wave = wave * np.exp(-1j * np.pi * self.focus_distance * f2)
        beside = (np.arange(self.modes) - (self.modes - 1) / 2) * 0.3 * self.detector / self.pupil
        modes = [wave * np.exp(-2j * np.pi * x * self.pupil / self.detector * shift) for shift in beside]
        return np.stack(modes) / np.sqrt(sum(np.sum(np.abs(mode) ** 2) for mode in modes))

    @cached_property
    def probe(self) -> NDArray[np.complex128]:
        """(mode, y, x) probe at the sample, on the wide window, of one photon."""
        return np.fft.fftshift(_back(self.pupils), axes=(-2, -1))

    @cached_property
    def amplitude(self) -> NDArray[np.float64]:
        """(view,) of the beam, relative to its mean."""
        return 1 + self.flicker * np.random.default_rng([self.seed, 6]).normal(size=self.positions)

    @cached_property
    def patterns(self) -> NDArray[np.float64]:
        """(view, y, x) expected intensities of one photon."""
        n, middle = 2 * self.detector, len(self.object) / 2
        f = (np.arange(n) - n // 2) / n
        f2 = f[:, None] ** 2 + f**2
        shift = np.random.default_rng([self.seed, 7]).normal(size=self.positions)
        shift *= self.breathing * (self.detector / self.pupil) ** 2
        frames = np.empty((self.positions, self.detector, self.detector))
        for view, place in enumerate(self.position):
            # The wave's pixel n//2 lies at the position.
            start = np.floor(place + middle - n // 2).astype(int)
            part = place + middle - 0.5 - n // 2 - start
            ramp = np.exp(-2j * np.pi * (f[:, None] * part[0] + f * part[1] + f2 * shift[view] / 2))
            ramp = self.amplitude[view] * ramp
            probe = np.fft.fftshift(_back(self.pupils * ramp), axes=(-2, -1))
            rows, columns = (np.arange(at, at + n).clip(0, len(self.object) - 1) for at in start)
            exit_wave = probe * self.object[np.ix_(rows, columns)]
            spectrum = np.fft.fftshift(np.fft.fft2(exit_wave, norm="ortho"), axes=(-2, -1))
            frames[view] = _binned((np.abs(spectrum) ** 2).sum(0))
        return frames

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(y, x) True where a detector pixel is good."""
        good = np.ones((self.detector, self.detector), bool)
        if self.stop:
            y, x = np.meshgrid(*(np.arange(self.detector) - self.detector // 2,) * 2, indexing="ij")
            good &= (np.hypot(y, x) > 0.3 * self.pupil) & ~((np.abs(x) < 1) & (y > 0))
            good[self.detector // 2 + round(1.3 * self.pupil)] = False
            good &= np.random.default_rng([self.seed, 4]).uniform(size=good.shape) > 0.005
        return good

    def scan(self, *, focus_known: bool) -> Scan:
        """Return the scan with its noise, and without a probe."""
        counts = np.random.default_rng([self.seed, 5]).poisson(self.patterns * self.photons).astype(np.float32)
        n = self.detector
        geometry = ScanGeometry(
            technique="ptychography",
            beam=Beam(WAVELENGTH_M, self.focus_distance_m if focus_known and self.depths else None),
            detector=Detector((n, n), (DETECTOR_PIXEL_M, DETECTOR_PIXEL_M), "far_field"),
            distance_m=np.full(self.positions, n * DETECTOR_PIXEL_M * OBJECT_PIXEL_M / WAVELENGTH_M),
            angle_rad=np.zeros(self.positions),
            position_m=self.position * OBJECT_PIXEL_M,
        )
        return Scan(geometry, Frames(counts, mask=self.mask))

    def likeness(self, transmission: NDArray[np.complexfloating], center_m: tuple[float, float]) -> float:
        """Return the correlation with the object where the beam went, of what varies in both.

        A constant factor, a phase ramp and a shift, which no pattern knows, are taken out.

        Args:
            transmission: (y, x) found.
            center_m: of it, relative to position 0.
        """
        n = len(self.object)
        first = (np.array(center_m) / OBJECT_PIXEL_M + (n - np.array(transmission.shape)) / 2).round().astype(int)
        rows, columns = (np.arange(at, at + size) for at, size in zip(first, transmission.shape, strict=True))
        truth = self.object[np.ix_(rows.clip(0, n - 1), columns.clip(0, n - 1))]
        seen = self._seen()[np.ix_(rows.clip(0, n - 1), columns.clip(0, n - 1))]
        return aligned_correlation(transmission, truth, seen)

    def _seen(self) -> NDArray[np.bool_]:
        n, light = len(self.object), np.zeros((len(self.object),) * 2)
        places = (self.position + (n - 1) / 2).round().astype(int)
        np.add.at(light, tuple(places.T), 1.0)
        spread = (np.abs(self.probe) ** 2).sum(0)
        kernel = np.zeros((n, n))
        width = min(n, len(spread))
        cut = slice((len(spread) - width) // 2, (len(spread) + width) // 2)
        put = slice(n // 2 - width // 2, n // 2 - width // 2 + width)
        kernel[put, put] = spread[cut, cut]
        light = np.fft.ifft2(np.fft.fft2(light) * np.fft.fft2(np.fft.ifftshift(kernel))).real
        return light > 0.4 * np.percentile(light, 99)


def aligned_correlation(
    found: NDArray[np.complexfloating], truth: NDArray[np.complexfloating], seen: NDArray[np.bool_]
) -> float:
    """Return |⟨a, b⟩|/|a||b| of what varies in two transmissions (y, x) where seen; ramp and shift are taken out."""
    rows, columns = (slice(at.min(), at.max() + 1) for at in np.nonzero(seen))
    found, truth, weight = found[rows, columns], truth[rows, columns], seen[rows, columns].astype(float)
    moved = found * weight
    for _ in range(6):
        moved = _without_ramp(moved, truth * weight)
        moved = _without_shift(moved, truth * weight, weight)
    one, other = (part - (part * weight).sum() / weight.sum() for part in (_scaled(moved, truth, weight), truth))
    one, other = one * weight, other * weight
    return float(abs(np.vdot(one, other)) / np.linalg.norm(one) / np.linalg.norm(other))


def _scaled(one: NDArray, other: NDArray, weight: NDArray) -> NDArray:
    return one * (np.vdot(one * weight, other * weight) / np.vdot(one * weight, one * weight))


def _without_ramp(one: NDArray, other: NDArray) -> NDArray:
    """Return the first times the ramp that brings it nearest to the second."""
    fy, fx = _peak(other * one.conj())
    y, x = np.arange(one.shape[0])[:, None], np.arange(one.shape[1])
    return one * np.exp(2j * np.pi * (fy * y + fx * x))


def _peak(array: NDArray) -> tuple[float, float]:
    """Return the frequency (y, x), cycles a pixel, of the peak of the spectrum, to a hundredth of its step."""
    ny, nx = array.shape
    spectrum = np.abs(np.fft.fft2(array))
    at = np.unravel_index(spectrum.argmax(), spectrum.shape)
    fy, fx = np.fft.fftfreq(ny)[at[0]], np.fft.fftfreq(nx)[at[1]]
    for width in (1.0, 0.2, 0.04):
        offsets = np.linspace(-width, width, 11)
        wave_y = np.exp(-2j * np.pi * np.outer(fy + offsets / ny, np.arange(ny)))
        wave_x = np.exp(-2j * np.pi * np.outer(np.arange(nx), fx + offsets / nx))
        at = np.unravel_index(np.abs(wave_y @ array @ wave_x).argmax(), (11, 11))
        fy, fx = fy + offsets[at[0]] / ny, fx + offsets[at[1]] / nx
    return fy, fx


def _without_shift(one: NDArray, other: NDArray, weight: NDArray) -> NDArray:
    """Return the first shifted to where its variations are nearest to the second's."""
    parts = [(part - (part * weight).sum() / weight.sum()) * weight for part in (_scaled(one, other, weight), other)]
    cross = np.fft.fftshift(np.fft.fft2(parts[1]) * np.fft.fft2(parts[0]).conj())
    ny, nx = one.shape
    sy, sx = _peak(cross)
    dy, dx = -sy * ny, -sx * nx
    ramp = np.exp(-2j * np.pi * (np.fft.fftfreq(ny)[:, None] * dy + np.fft.fftfreq(nx) * dx))
    return np.fft.ifft2(np.fft.fft2(one) * ramp)


def _soft(distance: NDArray, radius: float) -> NDArray:
    return np.clip(distance * radius / 2 + 0.5, 0, 1)


def _back(pupils: NDArray) -> NDArray:
    return np.fft.ifft2(np.fft.ifftshift(pupils, axes=(-2, -1)), norm="ortho")


def _binned(fine: NDArray) -> NDArray:
    """Sum what falls on detector pixels two fine pixels wide; fine pixel n//2 is the middle of pixel n//2."""
    halves = ndimage.convolve1d(fine, [0.5, 1, 0.5], axis=0, mode="wrap")
    return ndimage.convolve1d(halves, [0.5, 1, 0.5], axis=1, mode="wrap")[::2, ::2]
